// SPDX-License-Identifier: GPL-2.0
// What check.sh runs inside the guest. `probe TEST SECONDS` exits with 0 if the kernel did right.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static int fail(const char *what, long value)
{
	fprintf(stderr, "probe: FAIL %s (%ld)\n", what, value);
	return 1;
}

static volatile sig_atomic_t ticks;
static void count(int sig) { (void)sig; ticks++; }

/* --- Instructions that only the kernel may execute ---------------------------------------- */

static void on_cli(void) { asm volatile("cli"); }
static void on_sti(void) { asm volatile("sti"); }
static void on_hlt(void) { asm volatile("hlt"); }
static void on_clts(void) { asm volatile("clts"); }
static void on_swapgs(void) { asm volatile("swapgs"); }
static void on_invlpg(void) { asm volatile("invlpg (%%rsp)" ::: "memory"); }
static void on_wbinvd(void) { asm volatile("wbinvd"); }
static void on_read_cr3(void) { unsigned long v; asm volatile("mov %%cr3, %0" : "=r"(v)); }
static void on_write_cr3(void) { asm volatile("mov %0, %%cr3" ::"r"(0L)); }
static void on_write_cr0(void) { asm volatile("mov %0, %%cr0" ::"r"(0L)); }
static void on_rdmsr(void) { unsigned a, d; asm volatile("rdmsr" : "=a"(a), "=d"(d) : "c"(0x4b564d10)); }
static void on_wrmsr(void) { asm volatile("wrmsr" ::"a"(0x1001), "d"(0), "c"(0x4b564d10)); }
static void on_in(void) { unsigned char v; asm volatile("inb $0x80, %0" : "=a"(v)); }
static void on_out(void) { asm volatile("outb %0, $0x80" ::"a"((char)0)); }
static void on_lgdt(void) { static char d[10]; asm volatile("lgdt %0" ::"m"(d)); }
static void on_lidt(void) { static char d[10]; asm volatile("lidt %0" ::"m"(d)); }
static void on_ltr(void) { asm volatile("ltr %w0" ::"r"(0x40)); }
static void on_sysret(void) { asm volatile("sysretq"); }
static void on_kernel_read(void) { *(volatile long *)0xffffffff81000000; }
static void on_direct_map_read(void) { *(volatile long *)0xffff888001000000; }
static void on_kernel_call(void) { ((void (*)(void))0xffffffff81000000)(); }

static int privileged(double seconds)
{
	static const struct { const char *name; void (*run)(void); } tests[] = {
#define T(n) { #n, on_##n }
		T(cli), T(sti), T(hlt), T(clts), T(swapgs), T(invlpg), T(wbinvd), T(read_cr3),
		T(write_cr3), T(write_cr0), T(rdmsr), T(wrmsr), T(in), T(out), T(lgdt), T(lidt),
		T(ltr), T(sysret), T(kernel_read), T(direct_map_read), T(kernel_call),
#undef T
	};
	(void)seconds;
	for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			tests[i].run();
			_exit(0);
		}
		waitpid(pid, &status, 0);
		if (!WIFSIGNALED(status) || (WTERMSIG(status) != SIGSEGV && WTERMSIG(status) != SIGILL))
			return fail(tests[i].name, status);
	}
	return 0;
}

/* --- Ways back to user mode ------------------------------------------------------------- */

/* A process that returns to itself through `cs` goes on as before: interrupts on, its own GS. */
static int iret_to(unsigned long cs)
{
	unsigned long gs_before = 0, gs_after = 0, ss = 0x2b;

	syscall(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, 0x1234567000);
	syscall(SYS_arch_prctl, 0x1004 /* ARCH_GET_GS */, &gs_before);
	asm volatile("mov %%rsp, %%rax\n pushq %1\n pushq %%rax\n pushfq\n pushq %0\n"
		     "lea 1f(%%rip), %%rax\n pushq %%rax\n iretq\n1:" ::"r"(cs), "r"(ss) : "rax", "memory");
	syscall(SYS_arch_prctl, 0x1004, &gs_after);
	if (gs_before != gs_after)
		return fail("GS base after iretq", (long)gs_after);
	struct itimerval t = { { 0, 1000 }, { 0, 1000 } };
	signal(SIGALRM, count);
	setitimer(ITIMER_REAL, &t, NULL);
	for (double end = now() + 2; ticks < 10;)
		if (now() > end)
			return fail("timer after iretq", ticks);
	return 0;
}

static void break_frame(int sig, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	uint16_t *cs = (uint16_t *)&regs[REG_CSGSFS];

	(void)info;
	switch (sig - SIGRTMIN) {
	case 0: regs[REG_RIP] = (greg_t)0x8000000000000000; break; /* not canonical */
	case 1: regs[REG_RIP] = (greg_t)0xffffffff81000000; break; /* the kernel's */
	case 2: cs[3] = 0x43; break;                               /* SS: a TSS */
	case 3: cs[3] = 0x13; break;                               /* SS: the kernel's code */
	case 4: regs[REG_EFL] |= 0x3200; break;                    /* IF and IOPL: ignored */
	case 5: cs[0] = 0x23; break;                               /* CS: 32-bit code */
	case 6: cs[0] = 0x13; break;                               /* CS: the kernel's */
	case 7: cs[0] = 0x3b; break;
	case 8: regs[REG_RSP] = (greg_t)0x8000000000000000; break;
	}
}

static int returns(double seconds)
{
	(void)seconds;
	for (int i = 0; i <= 8; i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			struct sigaction act = { .sa_sigaction = break_frame, .sa_flags = SA_SIGINFO };

			alarm(5);
			sigaction(SIGRTMIN + i, &act, NULL);
			raise(SIGRTMIN + i);
			if (i == 4)
				on_cli(); /* IOPL must not have become 3 */
			_exit(0);
		}
		waitpid(pid, &status, 0);
		/* 5, 6 and 7 may go on or die, but neither hang nor take the kernel with them. */
		if (i >= 5 && i <= 7 ? WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM
				     : !WIFSIGNALED(status) || WTERMSIG(status) == SIGALRM)
			return fail("signal frame", i * 100000 + status);
	}
	static const unsigned long selectors[] = { 0x33, 0x3b };
	for (int i = 0; i < 2; i++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			ticks = 0;
			_exit(iret_to(selectors[i]));
		}
		waitpid(pid, &status, 0);
		if (WIFEXITED(status) ? WEXITSTATUS(status) != 0 : selectors[i] == 0x33)
			return fail("iretq in user mode", selectors[i] * 100000 + status);
	}
	return 0;
}

/* --- Vector registers under preemption --------------------------------------------------- */

__attribute__((target("avx"))) static int keep_vectors(unsigned seed, double end)
{
	while (now() < end) {
		unsigned out[8];
		unsigned in[8];

		for (int i = 0; i < 8; i++)
			in[i] = seed = seed * 1664525 + 1013904223;
		asm volatile("vmovdqu (%0), %%ymm3\n vmovdqa %%ymm3, %%ymm15\n"
			     "mov $200000, %%ecx\n1: pause\n dec %%ecx\n jnz 1b\n"
			     "vpxor %%xmm0, %%xmm0, %%xmm0\n vmovdqa %%ymm15, %%ymm7\n"
			     "vmovdqu %%ymm7, (%1)\n vzeroupper" ::"r"(in), "r"(out)
			     : "ecx", "xmm0", "xmm3", "xmm7", "xmm15", "memory");
		if (memcmp(in, out, sizeof(in)))
			return fail("AVX registers changed", 0);
	}
	return 0;
}

static int vectors(double seconds)
{
	int bad = 0, status;

	for (unsigned i = 0; i < 5; i++)
		if (fork() == 0)
			_exit(keep_vectors(i + 1, now() + seconds));
	while (wait(&status) > 0)
		bad |= status;
	return bad != 0;
}

/* --- Interrupts and timers ------------------------------------------------------------------ */

/*
 * How long this process has run from `before` to `at`, two readings of the clock in one busy loop. A longer way than a
 * reading takes is time that others had: of a host with too much to do nothing follows about the guest.
 */
static double ran(double before, double at) { return at - before < 0.001 ? at - before : 0; }

/* A busy loop gets its periodic signal, all the time and not too often. */
static int timers(double seconds)
{
	struct itimerval t = { { 0, 10000 }, { 0, 10000 } };
	double start = now(), last = start, longest = 0, without = 0;
	int seen = 0;

	signal(SIGALRM, count);
	setitimer(ITIMER_REAL, &t, NULL);
	while (last < start + seconds) {
		double at = now();

		without = ticks == seen ? without + ran(last, at) : 0;
		longest = without > longest ? without : longest;
		seen = ticks;
		last = at;
	}
	if (ticks > seconds * 101 + 2)
		return fail("too many signals", ticks);
	if (longest > 0.5)
		return fail("milliseconds of running without a signal", (long)(longest * 1000));
	for (int i = 0; i < 20; i++) {
		double from = now(), slept;

		usleep(20000);
		slept = now() - from;
		if ((slept < 0.0199 && ticks == seen) || slept > 60)
			return fail("sleep of 20 ms, in microseconds", (long)(slept * 1e6));
		seen = ticks;
	}
	return 0;
}

/* Waits for an answer: runs for three seconds of its own before it gives up, so that the other could have run as well. */
static int answered(struct pollfd *p)
{
	double before, at = now();

	if (poll(p, 1, 2000) == 1)
		return 1;
	for (double own = 0; own < 3; own += ran(before, at)) {
		if (poll(p, 1, 0) == 1)
			return 1;
		before = now();
		while ((at = now()) < before + 0.0005)
			;
	}
	return 0;
}

/* Two processes wake each other in turn, while their CPUs fall idle in between: no wakeup is lost. */
static int wakeups(double seconds)
{
	int there[2], back[2];
	char c = 0;
	long rounds = 0;

	if (pipe(there) || pipe(back))
		return fail("pipe", errno);
	if (fork() == 0) {
		close(there[1]);
		while (read(there[0], &c, 1) == 1)
			if (write(back[1], &c, 1) != 1)
				break;
		_exit(0);
	}
	for (double end = now() + seconds; now() < end; rounds++) {
		struct pollfd p = { .fd = back[0], .events = POLLIN };

		if (write(there[1], &c, 1) != 1)
			return fail("write", errno);
		if (!answered(&p))
			return fail("no answer in round", rounds);
		if (read(back[0], &c, 1) != 1)
			return fail("read", errno);
		if (rounds % 64 == 0)
			usleep(rounds % 1000);
	}
	close(there[1]);
	printf("probe: %ld rounds\n", rounds);
	return 0;
}

/* --- Memory and processes --------------------------------------------------------------------- */

static volatile int stop;
static void *remap(void *unused)
{
	(void)unused;
	while (!stop) {
		volatile char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (int i = 0; i < 65536; i += 4096)
			p[i] = (char)(i >> 12);
		mprotect((void *)p, 65536, PROT_READ);
		for (int i = 0; i < 65536; i += 4096)
			if (p[i] != (char)(i >> 12))
				_exit(fail("page content", i));
		munmap((void *)p, 65536);
	}
	return NULL;
}

/* Threads on all CPUs change their common page table: what one unmaps, no other sees again. */
static int mappings(double seconds)
{
	pthread_t thread[4];

	for (int i = 0; i < 4; i++)
		pthread_create(&thread[i], NULL, remap, NULL);
	usleep((useconds_t)(seconds * 1e6));
	stop = 1;
	for (int i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

static int forks(double seconds)
{
	long done = 0;

	for (double end = now() + seconds; now() < end; done++) {
		int status;
		pid_t pid = fork();

		if (pid == 0) {
			execl("/proc/self/exe", "probe", "nothing", "0", NULL);
			_exit(1);
		}
		waitpid(pid, &status, 0);
		if (status)
			return fail("child", status);
	}
	printf("probe: %ld programs\n", done);
	return 0;
}

/* The CPU that the vDSO and the kernel name is one that this guest has, and the one asked for. */
static int cpus(double seconds)
{
	(void)seconds;
	for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_ONLN); cpu++) {
		cpu_set_t set;
		unsigned kernel = 0;

		CPU_ZERO(&set);
		CPU_SET((size_t)cpu, &set);
		if (sched_setaffinity(0, sizeof(set), &set))
			return fail("affinity", cpu);
		syscall(SYS_getcpu, &kernel, NULL, NULL);
		if (sched_getcpu() != cpu || (int)kernel != cpu)
			return fail("getcpu", sched_getcpu());
	}
	return 0;
}

static int nothing(double seconds) { (void)seconds; return 0; }

int main(int argc, char **argv)
{
	static const struct { const char *name; int (*run)(double); } tests[] = {
#define T(n) { #n, n }
		T(privileged), T(returns), T(vectors), T(timers), T(wakeups), T(mappings), T(forks), T(cpus), T(nothing),
#undef T
	};
	for (size_t i = 0; argc == 3 && i < sizeof(tests) / sizeof(*tests); i++)
		if (strcmp(argv[1], tests[i].name) == 0)
			return tests[i].run(atof(argv[2]));
	fprintf(stderr, "usage: probe TEST SECONDS\n");
	return 2;
}
