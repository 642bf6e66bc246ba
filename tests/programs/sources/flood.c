/* Writes argv[1] MiB to standard output, in pieces of odd sizes, then says so on standard error. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char piece[70001];
	long left = (argc > 1 ? atol(argv[1]) : 1) << 20;
	unsigned seed = 1;

	while (left > 0) {
		size_t bytes = 1 + (seed = seed * 1103515245u + 12345u) / 65536u % sizeof(piece);
		if ((long)bytes > left)
			bytes = left;
		memset(piece, 'a' + seed % 26, bytes);
		for (size_t done = 0; done < bytes;) {
			ssize_t written = write(1, piece + done, bytes - done);
			if (written <= 0)
				return 1;
			done += written;
		}
		left -= bytes;
	}
	fprintf(stderr, "done\n");
	return 0;
}
