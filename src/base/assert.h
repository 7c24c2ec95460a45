/*
 * HF_ASSERT: a programmer's error of ours, checked in debug builds.
 * HF_VERIFY: always on, for corruption and accounting underflow.
 * base_die: the end of the program with a message. None of them allocates or takes a lock.
 *
 * The message goes to the writer that base_set_writer() was given (the os layer does so when
 * it is linked in); it is one line that begins with "holdfast: ".
 */
#ifndef HF_BASE_ASSERT_H
#define HF_BASE_ASSERT_H

#include "base/compiler.h"

/* Prints one line and aborts. Async-signal-safe as far as vsnprintf of integers and strings is. */
HF_NORETURN HF_COLD HF_PRINTF(1, 2) void base_die(const char *format, ...);
/* Prints one line, prefixed "holdfast: ", and goes on. Never allocates. */
HF_COLD HF_PRINTF(1, 2) void base_warn(const char *format, ...);
void base_set_writer(void (*writer)(const char *text, size_t bytes));

HF_NORETURN HF_COLD void base_check_failed(const char *file, int line, const char *left_text, const char *op_text,
	const char *right_text, uint64_t left, uint64_t right);

/* Both operands are printed; so say HF_VERIFY_OP(idle_chunks, >=, reserved_chunks). */
#define HF_VERIFY_OP(left, op, right)                                                                   \
	do {                                                                                            \
		const uint64_t hf_left_ = (uint64_t)(left);                                             \
		const uint64_t hf_right_ = (uint64_t)(right);                                           \
		if (HF_UNLIKELY(!(hf_left_ op hf_right_)))                                              \
			base_check_failed(__FILE__, __LINE__, #left, #op, #right, hf_left_, hf_right_); \
	} while (0)
#define HF_VERIFY(condition)                                                                \
	do {                                                                                \
		if (HF_UNLIKELY(!(condition)))                                              \
			base_check_failed(__FILE__, __LINE__, #condition, "!=", "0", 0, 0); \
	} while (0)

#ifdef HF_DEBUG
#define HF_ASSERT_OP(left, op, right) HF_VERIFY_OP(left, op, right)
#define HF_ASSERT(condition) HF_VERIFY(condition)
#else
#define HF_ASSERT_OP(left, op, right) ((void)sizeof((left)op(right)))
#define HF_ASSERT(condition) ((void)sizeof(condition))
#endif

#endif
