/*
 * Will the loader put the drop-in into this program? Not if there is no loader (static programs), nor if the program
 * runs with more rights than its caller, when the loader ignores LD_PRELOAD, nor if it is of another architecture.
 */
#include "tool.h"

#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { HEADERS_MAX = 64, SCRIPT_DEPTH_MAX = 4, PATH_BYTES = 4096 };

#define OWN_CLASS (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32)

static const char *check_elf(int fd, const unsigned char *start, size_t bytes)
{
	Elf64_Phdr headers[HEADERS_MAX];
	Elf64_Ehdr elf;

	if (bytes < sizeof elf || start[EI_CLASS] != OWN_CLASS || OWN_CLASS != ELFCLASS64)
		return bytes < sizeof elf ? NULL : "it is of another architecture";
	memcpy(&elf, start, sizeof elf);
	if (elf.e_phentsize != sizeof headers[0] || elf.e_phnum > HEADERS_MAX)
		return NULL;
	if (pread(fd, headers, elf.e_phnum * sizeof headers[0], (off_t)elf.e_phoff) !=
		(ssize_t)(elf.e_phnum * sizeof headers[0]))
		return NULL;
	for (int i = 0; i < elf.e_phnum; i++) {
		if (headers[i].p_type == PT_INTERP)
			return NULL;
	}
	return "it is statically linked";
}

static const char *check_rights(int fd)
{
	struct stat status;

	if (fstat(fd, &status) != 0)
		return NULL;
	if (((status.st_mode & S_ISUID) && status.st_uid != geteuid()) ||
		((status.st_mode & S_ISGID) && (status.st_mode & S_IXGRP) && status.st_gid != getegid()))
		return "it is setuid or setgid";
	/* Root has them anyway, and the loader then does not mind. */
	if (geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
		return "it has file capabilities";
	return NULL;
}

/* "#!/bin/sh -e": the interpreter. */
static bool parse_script(const char *start, char *path, size_t bytes)
{
	size_t length;

	start += 2;
	start += strspn(start, " \t");
	length = strcspn(start, " \t\n");
	if (length == 0 || length >= bytes)
		return false;
	memcpy(path, start, length);
	path[length] = '\0';
	return true;
}

const char *cover_check_file(const char *path)
{
	char script[PATH_BYTES], start[512] = "";
	const char *why = NULL;

	for (int depth = 0; depth < SCRIPT_DEPTH_MAX; depth++) {
		const int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t bytes;

		if (fd < 0)
			return NULL;
		bytes = read(fd, start, sizeof start - 1);
		start[bytes > 0 ? bytes : 0] = '\0';
		if (bytes > 4 && memcmp(start, ELFMAG, SELFMAG) == 0) {
			why = check_rights(fd);
			if (!why)
				why = check_elf(fd, (const unsigned char *)start, (size_t)bytes);
		}
		(void)close(fd);
		if (bytes < 3 || memcmp(start, "#!", 2) != 0 || !parse_script(start, script, sizeof script))
			return why;
		path = script;
	}
	return why;
}

bool cover_find_program(const char *name, char *path, size_t bytes)
{
	const char *search = getenv("PATH");

	if (strchr(name, '/')) {
		(void)snprintf(path, bytes, "%s", name);
		return access(path, F_OK) == 0;
	}
	if (!search)
		search = "/bin:/usr/bin";
	for (const char *at = search;; at++) {
		const size_t length = strcspn(at, ":");
		struct stat status;

		/* An empty entry is the current directory. */
		(void)snprintf(path, bytes, "%.*s%s%s", (int)length, at, length ? "/" : "./", name);
		if (access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode))
			return true;
		at += length;
		if (*at == '\0')
			return false;
	}
}
