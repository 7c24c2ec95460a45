/*
 * An ordinary program that holds memory as it is told to on standard input, one command a line:
 *   +N  hold N MiB more, in pieces of 64 KiB, each written all over; says "held TOTAL" or, when malloc says no, "no
 * TOTAL" -N  free the last N MiB (0: all); says "held TOTAL" ?   look whether every piece is still what was written;
 * says "intact TOTAL" It knows nothing of Holdfast. A damaged piece, or anything it cannot do, ends it with 1.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { PIECE_BYTES = 64 << 10, PIECES_MAX = 1 << 16, PIECES_PER_MIB = (1 << 20) / PIECE_BYTES };

static uint64_t *pieces[PIECES_MAX];
static size_t held;

static uint64_t pattern(size_t piece, size_t word)
{
	return (piece + 1) * 0x9e3779b97f4a7c15u ^ word;
}

static int take_piece(void)
{
	uint64_t *piece = held < PIECES_MAX ? malloc(PIECE_BYTES) : NULL;
	if (!piece)
		return 0;
	for (size_t word = 0; word < PIECE_BYTES / sizeof *piece; word++)
		piece[word] = pattern(held, word);
	pieces[held++] = piece;
	return 1;
}

static void check(void)
{
	for (size_t piece = 0; piece < held; piece++)
		for (size_t word = 0; word < PIECE_BYTES / sizeof(uint64_t); word++)
			if (pieces[piece][word] != pattern(piece, word)) {
				printf("damaged: piece %zu, word %zu\n", piece, word);
				exit(1);
			}
}

int main(void)
{
	char line[64];
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof line, stdin)) {
		size_t count = (size_t)strtoul(line + 1, NULL, 10) * PIECES_PER_MIB;
		const char *answer = "held";
		switch (line[0]) {
		case '+':
			while (count > 0 && take_piece())
				count--;
			if (count > 0)
				answer = "no";
			break;
		case '-':
			if (count == 0 || count > held)
				count = held;
			while (count-- > 0)
				free(pieces[--held]);
			break;
		case '?':
			check();
			answer = "intact";
			break;
		default:
			return 1;
		}
		printf("%s %zu\n", answer, held / PIECES_PER_MIB);
	}
	check();
	return 0;
}
