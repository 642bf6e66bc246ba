/*
 * How many descriptors this process has open, to find what was left behind.
 */
#ifndef AKVM_TESTS_OPEN_FILES_H
#define AKVM_TESTS_OPEN_FILES_H

long open_files_count(void);

#endif
