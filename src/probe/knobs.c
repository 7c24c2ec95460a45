#include "probe/knobs.h"

#include "base/compiler.h"

#include <errno.h>
#include <string.h>

/* ---- texts to numbers: strict, and without strtoull, which takes signs, blanks and the locale ---- */

/* Digits at *text, which moves behind them. */
static int parse_number(const char **text, uint64_t *number_out)
{
	const char *at = *text;
	uint64_t number = 0;

	for (; *at >= '0' && *at <= '9'; at++)
		if (__builtin_mul_overflow(number, (uint64_t)10, &number) ||
			__builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
			return -EINVAL;
	if (at == *text)
		return -EINVAL;
	*text = at;
	*number_out = number;
	return 0;
}

/* The same with K, M, G or T behind it. */
static int parse_bytes(const char **text, uint64_t *bytes_out)
{
	static const char units[] = "KMGT";
	const char *unit;
	uint64_t bytes;

	if (parse_number(text, &bytes))
		return -EINVAL;
	unit = **text ? strchr(units, **text) : NULL;
	if (unit) {
		if (__builtin_mul_overflow(bytes, (uint64_t)1 << (10 * (unit - units + 1)), &bytes))
			return -EINVAL;
		++*text;
	}
	*bytes_out = bytes;
	return 0;
}

static int parse_whole_number(const char *text, uint64_t most, uint64_t *number_out)
{
	if (parse_number(&text, number_out) || *text || *number_out > most)
		return -EINVAL;
	return 0;
}

/* ---- one function a knob: 0 or -EINVAL ---- */

static int set_probability(const char *value, struct probe_settings *settings)
{
	uint64_t number;

	if (parse_whole_number(value, 100, &number))
		return -EINVAL;
	settings->probability_percent = (uint32_t)number;
	return 0;
}

static int set_interval(const char *value, struct probe_settings *settings)
{
	uint64_t number;

	if (parse_whole_number(value, UINT32_MAX, &number) || number == 0)
		return -EINVAL;
	settings->interval = (uint32_t)number;
	return 0;
}

static int set_times(const char *value, struct probe_settings *settings)
{
	uint64_t number;

	settings->times = -1;
	if (strcmp(value, "-1") == 0)
		return 0;
	if (parse_whole_number(value, INT64_MAX, &number))
		return -EINVAL;
	settings->times = (int64_t)number;
	return 0;
}

static int set_space(const char *value, struct probe_settings *settings)
{
	return parse_bytes(&value, &settings->space_bytes) || *value ? -EINVAL : 0;
}

static int set_size(const char *value, struct probe_settings *settings)
{
	if (parse_bytes(&value, &settings->size_min_bytes))
		return -EINVAL;
	settings->size_max_bytes = settings->size_min_bytes;
	if (*value == '-') {
		value++;
		if (parse_bytes(&value, &settings->size_max_bytes))
			return -EINVAL;
	}
	return *value || settings->size_max_bytes < settings->size_min_bytes ? -EINVAL : 0;
}

/* The bit of a class's name, of @length bytes; 0: none has it. */
static uint32_t class_bit(const char *name, size_t length)
{
	static const struct {
		const char *name;
		enum probe_class number;
	} classes[] = {{"atomic", PROBE_CLASS_ATOMIC}, {"noretry", PROBE_CLASS_NORETRY}, {"retry", PROBE_CLASS_RETRY}};

	for (size_t i = 0; i < HF_COUNT_OF(classes); i++)
		if (strlen(classes[i].name) == length && memcmp(classes[i].name, name, length) == 0)
			return (uint32_t)1 << classes[i].number;
	return 0;
}

static int set_class(const char *value, struct probe_settings *settings)
{
	settings->classes = UINT32_MAX;
	if (strcmp(value, "all") == 0)
		return 0;
	settings->classes = 0;
	for (;; value++) {
		const size_t length = strcspn(value, "+");
		const uint32_t bit = class_bit(value, length);

		if (!bit)
			return -EINVAL;
		settings->classes |= bit;
		value += length;
		if (!*value)
			return 0;
	}
}

static int set_commits(const char *value, struct probe_settings *settings)
{
	uint64_t number;

	if (parse_whole_number(value, 1, &number))
		return -EINVAL;
	settings->deny_commits = number != 0;
	return 0;
}

static int set_seed(const char *value, struct probe_settings *settings)
{
	return parse_whole_number(value, UINT64_MAX, &settings->seed);
}

static const struct {
	const char *name;
	enum probe_knob which;
	int (*set)(const char *value, struct probe_settings *settings);
} knobs[] = {
	{"fail.probability", PROBE_KNOB_PROBABILITY, set_probability},
	{"fail.interval", PROBE_KNOB_INTERVAL, set_interval},
	{"fail.times", PROBE_KNOB_TIMES, set_times},
	{"fail.space", PROBE_KNOB_SPACE, set_space},
	{"fail.size", PROBE_KNOB_SIZE, set_size},
	{"fail.class", PROBE_KNOB_CLASS, set_class},
	{"fail.commits", PROBE_KNOB_COMMITS, set_commits},
	{"fail.seed", PROBE_KNOB_SEED, set_seed},
};

int probe_set_knob(const char *name, const char *value)
{
	for (size_t i = 0; i < HF_COUNT_OF(knobs); i++) {
		struct probe_settings settings;

		if (strcmp(name, knobs[i].name) != 0)
			continue;
		probe_settings_default(&settings);
		if (knobs[i].set(value, &settings))
			return -EINVAL;
		probe_apply(&settings, knobs[i].which);
		return 0;
	}
	return -ENOENT;
}

const char *probe_knob_names(void)
{
	return "fail.probability, fail.interval, fail.times, fail.space, fail.size, fail.class, fail.commits, "
	       "fail.seed";
}
