/* Says that it runs, and then never stops. */
#include <unistd.h>

int main(void)
{
	write(1, "spinning\n", 9);
	for (;;)
		__asm__ volatile("pause");
}
