/*
 * HOLDFAST=name=value,...: the knobs by name. An unknown one is an error, since a misspelt budget would be none.
 */
#include "base/assert.h"
#include "probe/probe.h"
#include "request/request.h"

#include <holdfast/init.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { KNOB_TEXT_BYTES = 64 };

static int set_budget(const char *value, struct knobs *knobs)
{
	int error = hf_parse_size(value, &knobs->budget_bytes);

	if (error) {
		base_warn("bad value in HOLDFAST: budget=%s: %s (say 64M, 1.5G, 50%%, auto or unlimited)", value,
			error == -ERANGE ? "too large" : "not a size");
		return -EINVAL;
	}
	knobs->has_budget = true;
	return 0;
}

static bool is_name_character(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
	       c == '-';
}

static int set_name(const char *value, struct knobs *knobs)
{
	const size_t length = strlen(value);

	for (size_t i = 0; i < length; i++) {
		if (!is_name_character(value[i]))
			goto bad;
	}
	if (length == 0 || length >= sizeof knobs->name)
		goto bad;
	memcpy(knobs->name, value, length + 1);
	return 0;
bad:
	base_warn("bad value in HOLDFAST: name=%s (1 to 31 letters, digits, '.', '_' or '-')", value);
	return -EINVAL;
}

static int set_commit(const char *value, struct knobs *knobs)
{
	(void)knobs;
	if (strcmp(value, "accounted") == 0)
		return 0;
	base_warn("bad value in HOLDFAST: commit=%s (this release knows only accounted)", value);
	return -EINVAL;
}

static int set_fault(const char *name, const char *value)
{
	const int error = probe_set_knob(name, value);

	if (error == -EINVAL || error == -ERANGE)
		base_warn("bad value in HOLDFAST: %s=%s", name, value);
	return error == -ENOENT ? -ENOENT : error ? -EINVAL : 0;
}

static const struct {
	const char *name;
	int (*set)(const char *value, struct knobs *knobs);
} own_knobs[] = {{"budget", set_budget}, {"name", set_name}, {"commit", set_commit}};

static int set_one(const char *name, const char *value, struct knobs *knobs)
{
	int error = -ENOENT;

	for (size_t i = 0; i < HF_COUNT_OF(own_knobs); i++) {
		if (strcmp(name, own_knobs[i].name) == 0)
			return own_knobs[i].set(value, knobs);
	}
	if (strncmp(name, "fail.", 5) == 0)
		error = set_fault(name, value);
	if (error == -ENOENT) {
		base_warn("unknown knob in HOLDFAST: %s (known: budget, name, commit, %s)", name, probe_knob_names());
		return -EINVAL;
	}
	return error;
}

/* One "name=value" of @length bytes, not ended by NUL. */
static int parse_one(const char *text, size_t length, struct knobs *knobs)
{
	char one[KNOB_TEXT_BYTES];
	char *equals;

	if (length >= sizeof one) {
		base_warn("bad value in HOLDFAST: %.*s...: too long", KNOB_TEXT_BYTES - 1, text);
		return -EINVAL;
	}
	memcpy(one, text, length);
	one[length] = '\0';
	equals = strchr(one, '=');
	if (!equals) {
		base_warn("bad value in HOLDFAST: %s: a knob is set by name=value", one);
		return -EINVAL;
	}
	*equals = '\0';
	return set_one(one, equals + 1, knobs);
}

int knobs_parse(const char *text, struct knobs *knobs)
{
	while (*text) {
		const size_t length = strcspn(text, ",");
		const int error = length ? parse_one(text, length, knobs) : 0;

		if (error)
			return error;
		text += length + (text[length] == ',');
	}
	return 0;
}
