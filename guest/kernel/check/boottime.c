// SPDX-License-Identifier: GPL-2.0
// The smallest VMM that boots the guest kernel: no device but the in-kernel interrupt controllers. Prints how long the
// kernel took from its first instruction to its init's byte to the port MARKER, and why it left guest mode on the way.
// usage: boottime VMLINUX INITRD CPUS MIB COMMAND-LINE
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	GDT = 0x500,
	BOOT_PARAMS = 0x7000,
	STACK = 0x8ff0,
	PML4 = 0x9000,
	PDPT = 0xa000,
	PAGE_DIRECTORIES = 0xb000, /* four: 4 GiB */
	COMMAND_LINE = 0x20000,
	MP_TABLE = 0x9fc00, /* the last KiB of base memory, where the kernel looks second */
	HIGH_MEMORY = 0x100000,
};
#define MARKER 0x5b0
#define HUGE_PAGE (2ul << 20)
/* Present, writable, user: a PVM guest's kernel runs in ring 3, and natively from the start on such tables. */
#define TABLE_FLAGS 7ul
#define LARGE_PAGE 0x80ul

static int kvm, vm;
static uint8_t *memory;
static size_t memory_size;
static unsigned cpus;
static uint64_t entry;
static struct kvm_cpuid2 *cpuid;
static long exits[64];

static void die(const char *what)
{
	fprintf(stderr, "boottime: %s: %s\n", what, strerror(errno));
	exit(1);
}

static double milliseconds(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static uint8_t *map_file(const char *path, size_t *size)
{
	struct stat s;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *p;

	if (fd < 0 || fstat(fd, &s))
		die(path);
	p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		die(path);
	close(fd);
	*size = (size_t)s.st_size;
	return p;
}

static void put16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }

static uint8_t checksum(const uint8_t *p, size_t n)
{
	uint8_t sum = 0;

	while (n--)
		sum += *p++;
	return (uint8_t)-sum;
}

/*
 * Intel MultiProcessor Specification 1.4: the CPUs, one ISA bus, one I/O APIC, and one interrupt: a
 * table with none makes Linux invent sixteen.
 */
static void write_mp_table(void)
{
	uint8_t *floating = memory + MP_TABLE, *table = floating + 16, *p = table + 44;
	uint16_t entries = 0;

	for (unsigned i = 0; i < cpus; i++, p += 20, entries++) {
		p[1] = (uint8_t)i;
		p[2] = 0x14;
		p[3] = i ? 1 : 3; /* enabled, boot CPU */
	}
	p[0] = 1;
	memcpy(p + 2, "ISA   ", 6);
	p += 8, entries++;
	p[0] = 2;
	p[1] = (uint8_t)cpus;
	p[2] = 0x11;
	p[3] = 1;
	put32(p + 4, 0xfec00000);
	p += 8, entries++;
	p[0] = 3;
	p[5] = p[7] = 5;
	p[6] = (uint8_t)cpus;
	p += 8, entries++;
	memcpy(table, "PCMP", 4);
	put16(table + 4, (uint16_t)(p - table));
	table[6] = 4;
	memcpy(table + 8, "RKVM    BOOTTIME    ", 20);
	put16(table + 34, entries);
	put32(table + 36, 0xfee00000);
	table[7] = checksum(table, (size_t)(p - table));
	memcpy(floating, "_MP_", 4);
	put32(floating + 4, MP_TABLE + 16);
	floating[8] = 1;
	floating[9] = 4;
	floating[10] = checksum(floating, 16);
}

/* Documentation/x86/boot.rst, "64-bit boot protocol". */
static void write_boot_params(const char *command_line, uint64_t initrd, uint64_t initrd_size)
{
	uint8_t *params = memory + BOOT_PARAMS, *e820 = params + 0x2d0;

	put16(params + 0x1fe, 0xaa55);
	memcpy(params + 0x202, "HdrS", 4);
	put16(params + 0x206, 0x20c);
	params[0x210] = 0xff;
	params[0x211] = 1;
	put32(params + 0x218, (uint32_t)initrd);
	put32(params + 0x21c, (uint32_t)initrd_size);
	put32(params + 0x228, COMMAND_LINE);
	put32(params + 0x238, 2048);
	strcpy((char *)memory + COMMAND_LINE, command_line);
	params[0x1e8] = 2;
	put64(e820 + 8, MP_TABLE);
	put32(e820 + 16, 1);
	put64(e820 + 20, HIGH_MEMORY);
	put64(e820 + 28, memory_size - HIGH_MEMORY);
	put32(e820 + 36, 1);
}

static void write_page_tables(void)
{
	put64(memory + PML4, PDPT | TABLE_FLAGS);
	for (uint64_t g = 0; g < 4; g++) {
		uint64_t directory = PAGE_DIRECTORIES + g * 4096;

		put64(memory + PDPT + g * 8, directory | TABLE_FLAGS);
		for (uint64_t i = 0; i < 512; i++)
			put64(memory + directory + i * 8, g << 30 | i << 21 | LARGE_PAGE | TABLE_FLAGS);
	}
}

static void load(const char *kernel, const char *initrd, const char *command_line)
{
	size_t size;
	uint8_t *elf = map_file(kernel, &size), *image;
	Elf64_Ehdr *header = (void *)elf;
	Elf64_Phdr *segment = (void *)(elf + header->e_phoff);
	uint64_t at;

	for (int i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type != PT_LOAD)
			continue;
		if (segment[i].p_paddr + segment[i].p_memsz > memory_size) {
			errno = ENOMEM;
			die("the kernel does not fit");
		}
		memcpy(memory + segment[i].p_paddr, elf + segment[i].p_offset, segment[i].p_filesz);
	}
	entry = header->e_entry;
	image = map_file(initrd, &size);
	at = (memory_size - size) & ~4095ul;
	memcpy(memory + at, image, size);
	write_boot_params(command_line, at, size);
	write_page_tables();
	write_mp_table();
}

static void set_registers(int vcpu)
{
	struct kvm_segment code = { .limit = ~0u, .selector = 0x10, .type = 0xb, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
	struct kvm_segment task = { .limit = 0x67, .selector = 0x20, .type = 0xb, .present = 1 };
	struct kvm_regs regs = { .rip = entry, .rsi = BOOT_PARAMS, .rsp = STACK, .rflags = 2 };
	struct kvm_sregs sregs;

	put64(memory + GDT + 0x10, 0x00af9b000000ffff);
	put64(memory + GDT + 0x18, 0x00cf93000000ffff);
	put64(memory + GDT + 0x20, 0x00008b0000000067);
	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		die("KVM_GET_SREGS");
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.tr = task;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 0x2f;
	sregs.cr0 = 0x80000033; /* PG, NE, ET, MP, PE */
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;  /* PAE */
	sregs.efer = 0x500; /* LME, LMA */
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		die("registers");
}

static void set_cpuid(int vcpu, uint32_t id)
{
	size_t size = sizeof(*cpuid) + cpuid->nent * sizeof(struct kvm_cpuid_entry2);
	struct kvm_cpuid2 *own = malloc(size);

	if (!own)
		die("memory");
	memcpy(own, cpuid, size);
	for (unsigned i = 0; i < own->nent; i++) {
		struct kvm_cpuid_entry2 *e = &own->entries[i];

		if (e->function == 1) {
			e->ebx = (e->ebx & 0xffff) | id << 24 | cpus << 16;
			e->ecx |= 1u << 31 | 1u << 24; /* hypervisor, TSC deadline timer */
		} else if (e->function == 0xb || e->function == 0x1f) {
			e->edx = id;
		} else if (e->function == 0x80000007) {
			e->edx |= 1u << 8; /* invariant TSC */
		}
	}
	if (ioctl(vcpu, KVM_SET_CPUID2, own))
		die("KVM_SET_CPUID2");
	free(own);
}

static void report(double wall, double processor)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	printf("wall %.2f ms, processor %.2f ms, host page faults %ld, exits to the VMM %ld (io %ld, mmio %ld)\n", wall,
	       processor, usage.ru_minflt, exits[KVM_EXIT_IO] + exits[KVM_EXIT_MMIO], exits[KVM_EXIT_IO],
	       exits[KVM_EXIT_MMIO]);
	fflush(stdout);
	_exit(0);
}

static void *run_cpu(void *argument)
{
	uint32_t id = (uint32_t)(uintptr_t)argument;
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, id);
	int run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run;
	double wall, processor;

	if (vcpu < 0 || run_size < 0)
		die("KVM_CREATE_VCPU");
	run = mmap(NULL, (size_t)run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		die("kvm_run");
	set_cpuid(vcpu, id);
	if (id == 0)
		set_registers(vcpu);
	wall = milliseconds(CLOCK_MONOTONIC);
	processor = milliseconds(CLOCK_THREAD_CPUTIME_ID);
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0)) {
			/* EAGAIN: a CPU that waited for its start-up IPI has got it */
			if (errno != EINTR && errno != EAGAIN)
				die("KVM_RUN");
			continue;
		}
		if (run->exit_reason < 64)
			exits[run->exit_reason]++;
		if (run->exit_reason == KVM_EXIT_MMIO) {
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		} else if (run->exit_reason == KVM_EXIT_IO) {
			if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == MARKER)
				report(milliseconds(CLOCK_MONOTONIC) - wall, milliseconds(CLOCK_THREAD_CPUTIME_ID) - processor);
			if (run->io.direction == KVM_EXIT_IO_IN)
				memset((char *)run + run->io.data_offset, 0xff, (size_t)run->io.size * run->io.count);
		} else {
			fprintf(stderr, "boottime: vCPU %u stopped: exit reason %u\n", id, run->exit_reason);
			exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	struct kvm_userspace_memory_region region = { 0 };
	pthread_t thread;
	uint8_t *area;

	if (argc != 6) {
		fprintf(stderr, "usage: boottime VMLINUX INITRD CPUS MIB COMMAND-LINE\n");
		return 2;
	}
	cpus = (unsigned)atoi(argv[3]);
	memory_size = (size_t)atoi(argv[4]) << 20;
	area = mmap(NULL, memory_size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (area == MAP_FAILED || cpus < 1 || cpus > 30 || memory_size < 32 * HUGE_PAGE)
		die("memory or CPUs");
	memory = (uint8_t *)(((uintptr_t)area + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
	madvise(memory, memory_size, MADV_HUGEPAGE);
	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		die("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	region.memory_size = memory_size;
	region.userspace_addr = (uintptr_t)memory;
	/* Memory before the interrupt controllers: the other way round it waits for a grace period. */
	if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) || ioctl(vm, KVM_CREATE_IRQCHIP, 0) ||
	    ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000))
		die("virtual machine");
	load(argv[1], argv[2], argv[5]);
	cpuid = calloc(1, sizeof(*cpuid) + 128 * sizeof(struct kvm_cpuid_entry2));
	if (!cpuid)
		die("memory");
	cpuid->nent = 128;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
	for (uintptr_t i = 1; i < cpus; i++)
		if (pthread_create(&thread, NULL, run_cpu, (void *)i))
			die("thread");
	run_cpu(NULL);
	return 0;
}
