/*
 * See open_files.h.
 */
#include "open_files.h"

#include <dirent.h>

#include "t.h"

long open_files_count(void)
{
	DIR *folder = opendir("/proc/self/fd");
	long count = 0;

	T_CHECK(folder != NULL);
	while (readdir(folder))
		count++;
	closedir(folder);
	return count;
}
