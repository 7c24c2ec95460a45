/*
 * Holdfast: memory for programs that must not die when it runs out. Includes every public header.
 */
#ifndef HOLDFAST_HOLDFAST_H
#define HOLDFAST_HOLDFAST_H

#include <holdfast/alloc.h>
#include <holdfast/fault.h>
#include <holdfast/init.h>
#include <holdfast/ledger.h>
#include <holdfast/stats.h>

#endif
