/* LD_PRELOAD library: CPUID answers as on a processor without newer instructions, at native speed.
 *
 * Linux lets a process ask for a fault in place of CPUID (arch_prctl(2), ARCH_SET_CPUID) on
 * processors that offer it; the handler executes the instruction and clears feature bits.
 * CPUID_MASK: avx512 is AVX-512 without VNNI, avx2 is AVX2 alone. Exits with 86 where the processor
 * does not offer the fault.
 */
#define _GNU_SOURCE
#include <asm/prctl.h>
#include <cpuid.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef ARCH_SET_CPUID
#define ARCH_SET_CPUID 0x1012
#endif
#define BIT(n) (1U << (n))

static struct sigaction before;
static int without_avx512;

static long set_cpuid(unsigned long enabled) {
    return syscall(SYS_arch_prctl, ARCH_SET_CPUID, enabled);
}

static void mask(uint32_t leaf, uint32_t subleaf, uint32_t *a, uint32_t *b, uint32_t *c,
                 uint32_t *d) {
    if (leaf != 7) {
        return;
    }
    if (subleaf == 0) {
        *c &= ~BIT(11);                         /* AVX512_VNNI */
        *d &= ~(BIT(22) | BIT(24) | BIT(25));   /* AMX BF16, TILE, INT8 */
        if (without_avx512) {
            *b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31));
            *c &= ~(BIT(1) | BIT(6) | BIT(12) | BIT(14));
            *d &= ~(BIT(2) | BIT(3) | BIT(8) | BIT(23));
        }
    }
    if (subleaf == 1) {
        *a &= ~(BIT(4) | BIT(5) | BIT(21));     /* AVX_VNNI, AVX512_BF16, AMX_FP16 */
        *d &= ~(BIT(4) | BIT(5) | BIT(10));     /* AVX_VNNI_INT8, AVX_NE_CONVERT, AVX_VNNI_INT16 */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const uint8_t *instruction = (const uint8_t *)registers[REG_RIP];
    (void)number;
    if (info->si_code != SI_KERNEL || instruction[0] != 0x0f || instruction[1] != 0xa2) {
        sigaction(SIGSEGV, &before, NULL);
        return;
    }
    uint32_t leaf = (uint32_t)registers[REG_RAX], subleaf = (uint32_t)registers[REG_RCX];
    uint32_t a, b, c, d;
    set_cpuid(1);
    __cpuid_count(leaf, subleaf, a, b, c, d);
    set_cpuid(0);
    mask(leaf, subleaf, &a, &b, &c, &d);
    registers[REG_RAX] = a;
    registers[REG_RBX] = b;
    registers[REG_RCX] = c;
    registers[REG_RDX] = d;
    registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
    struct sigaction action;
    const char *level = getenv("CPUID_MASK");
    without_avx512 = level != NULL && strcmp(level, "avx2") == 0;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before);
    if (set_cpuid(0) != 0) {
        _exit(86);
    }
}
