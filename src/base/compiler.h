/*
 * What the compiler is told, and nothing else: attributes, hints, array sizes.
 * Not a place for helpers that do something.
 */
#ifndef HF_BASE_COMPILER_H
#define HF_BASE_COMPILER_H

#include <stddef.h>
#include <stdint.h>

#define HF_LIKELY(x) __builtin_expect(!!(x), 1)
#define HF_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define HF_MUST_USE __attribute__((warn_unused_result))
#define HF_NORETURN __attribute__((noreturn))
#define HF_NOINLINE __attribute__((noinline))
#define HF_COLD __attribute__((cold, noinline))
#define HF_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define HF_EXPORT __attribute__((visibility("default")))

#define HF_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define HF_CONTAINER_OF(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Tells the processor that this is a spin loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

#if defined(__SANITIZE_THREAD__)
#define HF_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HF_TSAN 1
#endif
#endif
#ifndef HF_TSAN
#define HF_TSAN 0
#endif

#if defined(__SANITIZE_ADDRESS__)
#define HF_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HF_ASAN 1
#endif
#endif
#ifndef HF_ASAN
#define HF_ASAN 0
#endif

#endif
