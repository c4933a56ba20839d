// SPDX-License-Identifier: GPL-2.0
// PID 1 of boottime.sh's guests: one store to boottime's MARKER, as soon as it runs.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

int main(void)
{
	mknod("/mem", S_IFCHR | 0600, makedev(1, 1));
	volatile char *marker = mmap(NULL, 4096, PROT_WRITE, MAP_SHARED, open("/mem", O_RDWR | O_SYNC), 0xd0000000);

	*marker = 1;
	pause();
}
