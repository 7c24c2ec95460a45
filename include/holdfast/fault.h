/*
 * Holdfast: fault injection for the program's own tests.
 *
 *   for (unsigned n = 1;; n++) {
 *           hf_fault_fail_nth(n);
 *           int result = the_code_under_test();
 *           bool fired = hf_fault_fired();
 *           hf_fault_off();
 *           check_invariants(result, fired);
 *           if (!fired)
 *                   break;
 *   }
 *
 * The knobs fail.probability, fail.interval, fail.times, fail.space, fail.size, fail.class and
 * fail.commits (HOLDFAST= or hf_init) mean what the kernel's failslab knobs mean, and are asked in the kernel's order.
 */
#ifndef HOLDFAST_FAULT_H
#define HOLDFAST_FAULT_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The @n-th request of this thread from now fails, once (1: the next); 0: off. Not inherited by fork. */
void hf_fault_fail_nth(unsigned n);
/* Has it failed one since hf_fault_fail_nth()? */
bool hf_fault_fired(void);
void hf_fault_off(void);

#ifdef __cplusplus
}
#endif

#endif
