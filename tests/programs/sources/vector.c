/* What a dynamic linker and a program are told at the start, as far as it is the same natively and inside. */
#include <elf.h>
#include <link.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>

extern char **environ;
extern char _start[];

int main(int argc, char **argv)
{
	const ElfW(Phdr) *headers = (void *)getauxval(AT_PHDR);
	const char *base = (void *)getauxval(AT_BASE);
	const unsigned char *random = (void *)getauxval(AT_RANDOM);
	const char *vdso = (void *)getauxval(AT_SYSINFO_EHDR);
	int zeroes = 0;

	for (int i = 0; i < argc; i++)
		printf("argument %s\n", argv[i]);
	for (int i = 0; environ[i]; i++)
		printf("variable %s\n", environ[i]);
	printf("entry %d base %d\n", getauxval(AT_ENTRY) == (unsigned long)_start, base ? !memcmp(base, ELFMAG, 4) : -1);
	printf("headers %lu of %lu: type %u\n", getauxval(AT_PHNUM), getauxval(AT_PHENT), headers->p_type);
	printf("name %s platform %s\n", (char *)getauxval(AT_EXECFN), (char *)getauxval(AT_PLATFORM));
	printf("page %lu ticks %lu flags %lu\n", getauxval(AT_PAGESZ), getauxval(AT_CLKTCK), getauxval(AT_FLAGS));
	printf("hwcap %lx secure %lu\n", getauxval(AT_HWCAP), getauxval(AT_SECURE));
	printf("ids %lu %lu %lu %lu\n", getauxval(AT_UID), getauxval(AT_EUID), getauxval(AT_GID), getauxval(AT_EGID));
	printf("frame %d vdso %d\n", getauxval(AT_MINSIGSTKSZ) >= 1024, vdso ? !memcmp(vdso, ELFMAG, 4) : 1);
	for (int i = 0; i < 16; i++)
		zeroes += !random[i];
	printf("random %d\n", zeroes < 16);
	printf("stack %d\n", (char *)argv[argc - 1] > (char *)argv && environ > argv);
	return 0;
}
