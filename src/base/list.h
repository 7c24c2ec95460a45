/*
 * Intrusive doubly linked list. An empty head points to itself. Not thread-safe.
 */
#ifndef HF_BASE_LIST_H
#define HF_BASE_LIST_H

#include "base/compiler.h"

#include <stdbool.h>

struct list {
	struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
	head->next = head;
	head->prev = head;
}

static inline bool list_is_empty(const struct list *head)
{
	return head->next == head;
}

static inline void list_add_after(struct list *at, struct list *node)
{
	node->next = at->next;
	node->prev = at;
	at->next->prev = node;
	at->next = node;
}

static inline void list_add_first(struct list *head, struct list *node)
{
	list_add_after(head, node);
}

static inline void list_add_last(struct list *head, struct list *node)
{
	list_add_after(head->prev, node);
}

/* The node then points to itself, so that removing it twice does no harm. */
static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

#endif
