/*
 * What the files of the command `holdfast` share. Only the public API is used.
 */
#ifndef HF_TOOLS_TOOL_H
#define HF_TOOLS_TOOL_H

#include <holdfast/ledger.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/* As `env`, `timeout` and the shell have it. */
enum { EXIT_OWN_FAILURE = 125, EXIT_CANNOT_EXECUTE = 126, EXIT_NOT_FOUND = 127, EXIT_SIGNALLED = 128 };

int run_main(int argc, char **argv);
int ps_main(int argc, char **argv);
int stat_main(int argc, char **argv);

/* "holdfast run: ..." on standard error, with a newline. */
__attribute__((format(printf, 1, 2))) void complain(const char *format, ...);
__attribute__((format(printf, 1, 2), noreturn)) void fail(const char *format, ...);
void *allocate(size_t count, size_t bytes_each);

/* ---- format.c ---- */

enum { SIZE_TEXT_BYTES = 16 };
/* "51.2M"; SIZE_MAX: "none". Returns @text. */
const char *format_size(size_t bytes, char text[SIZE_TEXT_BYTES]);
/* A decimal number with nothing before or behind it, and not more than a pid can be. */
bool parse_number(const char *text, int *number_out);
/* Cut to valid UTF-8 without control characters: what other processes call themselves is not to be trusted. */
void make_printable(const char *from, char *text, size_t bytes);

/* ---- ledgers.c ---- */

struct seen_ledger {
	hf_ledger *ledger;
	struct hf_ledger_info info;
	struct hf_ledger_process *processes;
	size_t process_count;
};
struct seen_ledgers {
	struct seen_ledger *ledgers;
	size_t count;
};
/* Every ledger that this user can see, each once, the oldest keeper's first. */
void ledgers_find_all(struct seen_ledgers *seen);
/* That process's innermost one. 0 or -errno. */
int ledgers_find_of(pid_t pid, struct seen_ledgers *seen);
void ledgers_free(struct seen_ledgers *seen);
/* Its name, or a made-up one for those without. */
void ledger_label(const struct hf_ledger_info *info, char *text, size_t bytes);
void ledger_processes(hf_ledger *ledger, struct hf_ledger_process **processes_out, size_t *count_out);

/* ---- cover.c: which programs run without the drop-in ---- */

/* Why the program in that file will not be covered; NULL: as far as one can tell it will. */
const char *cover_check_file(const char *path);
/* The file that execvp() would run. False: none. */
bool cover_find_program(const char *name, char *path, size_t bytes);

/* If it is time, look at the processes below this one; remember those that are not covered. Ms to the next time. */
unsigned cover_sample(void);
/* The @index-th kind of uncovered program: its name, why, and how many processes there were. False: no more. */
bool cover_uncovered_at(size_t index, const char **name_out, const char **why_out, unsigned *count_out);
/* Remember the program that is about to be started. */
void cover_note(const char *name, const char *why);

/* ---- child.c: the program that is run ---- */

struct child {
	pid_t pid;
	bool ended;
	int status; /* as the exit status of `holdfast run`, once ended */
};
void child_take_signals(void);
/* Start it; 0, or the exit status that says what went wrong, after a message. */
int child_start(char **argv, struct child *child);
/* Pass signals on, reap, until nothing is left to be read from child_signal_fd(). */
void child_handle_signals(struct child *child);
int child_signal_fd(void);
/* Are there other processes that were left to us? */
bool child_has_orphans(void);

/* ---- report.c ---- */

/* What was seen while the program ran; after it, outside is next to nothing. */
struct course {
	bool has_begun;
	size_t limit_least_bytes, limit_most_bytes, outside_most_bytes, margin_most_bytes;
};
void course_note(struct course *course, const hf_ledger *ledger);
/* The screen of --stats. @ledger may be a view. */
void report_print(FILE *file, hf_ledger *ledger, const struct course *course, bool is_keeper);

#endif
