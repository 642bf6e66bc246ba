"""Instructions as bytes, sorted by what they are after: the words of the grammar. Each line is machine code and what it is.

By convention RDI and RSI hold addresses and RAX a value; `grammar` sets them first as often as not. Assembled once and kept as
bytes, so that making a case needs no assembler.
"""

from __future__ import annotations

from typing import Final


def _table(text: str) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(line.split(maxsplit=1)[0]) for line in text.strip().splitlines())


CALLS: Final = _table(
    """
    0f05                     syscall
    cd80                     int $0x80
    0f34                     sysenter
    cc                       int3
    f1                       int1
    cd00                     int $0
    cd01                     int $1
    cd02                     int $2
    cd08                     int $8
    cd0e                     int $14
    cd20                     int $0x20
    cd21                     int $0x21
    cdff                     int $0xff
    0f0b                     ud2
    """
)
PRIVILEGED: Final = _table(
    """
    f4                       hlt
    fa                       cli
    fb                       sti
    0f06                     clts
    0f08                     invd
    0f09                     wbinvd
    0f32                     rdmsr
    0f30                     wrmsr
    0f01f8                   swapgs
    480f07                   sysretq
    0f07                     sysretl
    0f35                     sysexit
    0f01d1                   xsetbv
    0f0117                   lgdt (%rdi)
    0f011f                   lidt (%rdi)
    0f00d0                   lldt %ax
    0f00d8                   ltr %ax
    0f01f0                   lmsw %ax
    0f013f                   invlpg (%rdi)
    660f388207               invpcid (%rdi), %rax
    0f01c8                   monitor
    0f01c9                   mwait
    0f33                     rdpmc
    e460                     in $0x60, %al
    ed                       in %dx, %eax
    e680                     out %al, $0x80
    ef                       out %eax, %dx
    6c                       insb
    f36d                     rep insl
    6e                       outsb
    f36f                     rep outsl
    0f01d8                   vmrun
    0f01da                   vmload
    0f01db                   vmsave
    0f01dc                   stgi
    0f01dd                   clgi
    0f01de                   skinit
    0f01c4                   vmxoff
    0f01c2                   vmlaunch
    0f01c3                   vmresume
    f30fc737                 vmxon (%rdi)
    660fc737                 vmclear (%rdi)
    0fc737                   vmptrld (%rdi)
    0f78c3                   vmread %rax, %rbx
    0f79d8                   vmwrite %rax, %rbx
    660f388007               invept (%rdi), %rax
    0fc72f                   xsaves (%rdi)
    0fc71f                   xrstors (%rdi)
    0faa                     rsm
    0f01ca                   clac
    0f01cb                   stac
    0f37                     getsec
    0f01cf                   encls
    0f20c0                   mov %cr0, %rax
    0f22c0                   mov %rax, %cr0
    0f20d0                   mov %cr2, %rax
    0f20d8                   mov %cr3, %rax
    0f22d8                   mov %rax, %cr3
    0f20e0                   mov %cr4, %rax
    0f22e0                   mov %rax, %cr4
    440f22c0                 mov %rax, %cr8
    0f21c0                   mov %db0, %rax
    0f23c0                   mov %rax, %db0
    0f23f0                   mov %rax, %db6
    0f23f8                   mov %rax, %db7
    0f21f8                   mov %db7, %rax
    """
)
PROBES: Final = _table(
    """
    0fa2                     cpuid
    0f31                     rdtsc
    0f01f9                   rdtscp
    f30fc7f8                 rdpid %rax
    480fc7f0                 rdrand %rax
    480fc7f9                 rdseed %rcx
    31c90f01d0               xor %ecx, %ecx; xgetbv
    b9010000000f01d0         mov $1, %ecx; xgetbv
    0f0107                   sgdt (%rdi)
    0f010f                   sidt (%rdi)
    0f00c0                   sldt %eax
    0f00c8                   str %eax
    480f01e0                 smsw %rax
    0f01c1                   vmcall
    0f01d9                   vmmcall
    0f01d4                   vmfunc
    0f01d7                   enclu
    0f01ee                   rdpkru
    0f01ef                   wrpkru
    f390                     pause
    0faee8                   lfence
    0faef0                   mfence
    0fae3f                   clflush (%rdi)
    660fae3f                 clflushopt (%rdi)
    660fae37                 clwb (%rdi)
    0f0d0f                   prefetchw (%rdi)
    f20faef0                 umwait %eax
    660faef0                 tpause %eax
    f3480faee8               incsspq %rax
    0f01d6                   xtest
    c7f800000000             xbegin 1f; 1:
    0f01d5                   xend
    c6f801                   xabort $1
    0f00e0                   verr %ax
    0f00e8                   verw %ax
    0f02c0                   lar %ax, %eax
    0f03c0                   lsl %ax, %eax
    """
)
SEGMENTS: Final = _table(
    """
    8ed8                     mov %ax, %ds
    8ec0                     mov %ax, %es
    8ee0                     mov %ax, %fs
    8ee8                     mov %ax, %gs
    8ed0                     mov %ax, %ss
    8cd8                     mov %ds, %eax
    8ce1                     mov %fs, %ecx
    0fa00fa9                 push %fs; pop %gs
    0fa1                     pop %fs
    0fb206                   lss (%rsi), %eax
    0fb41e                   lfs (%rsi), %ebx
    0fb50e                   lgs (%rsi), %ecx
    f3480faed0               wrfsbase %rax
    f3480faedf               wrgsbase %rdi
    f3480faec3               rdfsbase %rbx
    f3480faec9               rdgsbase %rcx
    64488b042500000000       mov %fs:0, %rax
    654889042508000000       mov %rax, %gs:8
    65488b07                 mov %gs:(%rdi), %rax
    """
)
CONTROL: Final = _table(
    """
    ffe7                     jmp *%rdi
    ffe0                     jmp *%rax
    ffd7                     call *%rdi
    ff16                     call *(%rsi)
    c3                       ret
    c20800                   ret $8
    48cb                     lretq
    cb                       lretl
    48cf                     iretq
    cf                       iretl
    66cf                     iretw
    48ff2e                   rex.w ljmp *(%rsi)
    48ff1e                   rex.w lcall *(%rsi)
    ff2e                     ljmp *(%rsi)
    e302                     jrcxz . + 4
    e2fe                     loop .
    ebfe                     jmp .
    e800000000               call . + 5
    f390ebfc                 pause; jmp . - 2
    ebee                     jmp . - 16
    ebfb                     jmp . - 3
    75f6                     jnz . - 8
    """
)
STRINGS: Final = _table(
    """
    f3a4                     rep movsb
    f348a5                   rep movsq
    f3aa                     rep stosb
    f348ab                   rep stosq
    f3ac                     rep lodsb
    f3a6                     repe cmpsb
    f2ae                     repne scasb
    fd                       std
    fc                       cld
    48a5                     movsq
    48ab                     stosq
    48ad                     lodsq
    48a7                     cmpsq
    67f3aa                   addr32 rep stosb
    f048ff07                 lock; incq (%rdi)
    f0480fc147fc             lock; xaddq %rax, -4(%rdi)
    f0480fc70e               lock; cmpxchg16b (%rsi)
    480fc70f                 cmpxchg16b (%rdi)
    f00fc70f                 lock; cmpxchg8b (%rdi)
    488707                   xchg %rax, (%rdi)
    d7                       xlatb
    ff37                     push (%rdi)
    8f07                     pop (%rdi)
    c8100003                 enter $16, $3
    c8ffff1f                 enter $0xffff, $31
    c9                       leave
    9c                       pushfq
    9d                       popfq
    50                       push %rax
    58                       pop %rax
    488b07                   mov (%rdi), %rax
    488907                   mov %rax, (%rdi)
    488b1e                   mov (%rsi), %rbx
    48891e                   mov %rbx, (%rsi)
    48830701                 addq $1, (%rdi)
    488926                   mov %rsp, (%rsi)
    """
)
VECTORS: Final = _table(
    """
    dbe3                     fninit
    9bdbe3                   finit
    dbe2                     fnclex
    d92e                     fldcw (%rsi)
    d93f                     fnstcw (%rdi)
    d926                     fldenv (%rsi)
    d937                     fnstenv (%rdi)
    dd26                     frstor (%rsi)
    dd37                     fnsave (%rdi)
    d9e8                     fld1
    d9ee                     fldz
    def1                     fdivp
    d9fa                     fsqrt
    d9e0                     fchs
    9b                       fwait
    0f77                     emms
    d907                     fld (%rdi)
    df3f                     fistpll (%rdi)
    0fae07                   fxsave (%rdi)
    0fae0e                   fxrstor (%rsi)
    480fae07                 fxsave64 (%rdi)
    480fae0e                 fxrstor64 (%rsi)
    0fae16                   ldmxcsr (%rsi)
    0fae1f                   stmxcsr (%rdi)
    0fae27                   xsave (%rdi)
    480fae27                 xsave64 (%rdi)
    0fae2e                   xrstor (%rsi)
    480fae2e                 xrstor64 (%rsi)
    0fae37                   xsaveopt (%rdi)
    0fc727                   xsavec (%rdi)
    0f5ec8                   divps %xmm0, %xmm1
    660f51da                 sqrtpd %xmm2, %xmm3
    f2480f2cc0               cvttsd2si %xmm0, %rax
    0f2807                   movaps (%rdi), %xmm0
    0f110e                   movups %xmm1, (%rsi)
    660fe717                 movntdq %xmm2, (%rdi)
    660ff7d1                 maskmovdqu %xmm1, %xmm2
    c5fc77                   vzeroall
    c5f877                   vzeroupper
    c5fc100f                 vmovups (%rdi), %ymm1
    c5fc1116                 vmovups %ymm2, (%rsi)
    c5f458d0                 vaddps %ymm0, %ymm1, %ymm2
    c5f55ed0                 vdivpd %ymm0, %ymm1, %ymm2
    c4e275901c97             vpgatherdd %ymm1, (%rdi,%ymm2,4), %ymm3
    c4e26d2e0f               vmaskmovps %ymm1, %ymm2, (%rdi)
    62f17c48100f             vmovups (%rdi), %zmm1
    62f1744958d0             vaddps %zmm0, %zmm1, %zmm2{%k1}
    c4e1fb92c8               kmovq %rax, %k1
    c5fd76c8                 vpcmpeqd %ymm0, %ymm0, %ymm1
    660f38dcc8               aesenc %xmm0, %xmm1
    660f3a61d100             pcmpestri $0, %xmm1, %xmm2
    f20f38f007               crc32b (%rdi), %eax
    """
)
