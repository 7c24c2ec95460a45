/*
 * What the kernel shows of other processes, and whether a descriptor can be read: for the keeper and the commands.
 * What holds for every call of os.h holds here too. Always the real one: os_fake.c does not script these.
 */
#ifndef HF_OS_PROC_H
#define HF_OS_PROC_H

#include "base/compiler.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Where a symbolic link points to, ended by NUL. Its length, -ENAMETOOLONG, or -errno. */
HF_MUST_USE ssize_t os_read_link(const char *path, char *text, size_t bytes);

/*
 * Call @each for every entry of a directory whose name is a number, until it returns something other than 0.
 * Returns that, 0, or -errno if the directory cannot be read.
 */
int os_each_number(const char *directory, int (*each)(long number, void *context), void *context);

/* Would reading it return at once (with data, the end or an error)? */
bool os_fd_is_readable(int fd);

#endif
