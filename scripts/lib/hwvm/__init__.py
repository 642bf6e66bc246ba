"""The harness behind scripts/hwtest: boots a machine whose KVM is hardware-like, in emulation, and runs the tests in it.

options    the command line                    variants      which machines there are
kernels    a stock kernel, unpacked            packages      files of installed Debian packages
image      the guest's file systems            cpio          archives for the kernel's initramfs
initrd     what the kernel starts first        exchange      the disk with the job in and the results out
emulator   running an emulator within bounds   qemu, bochs   the two there are
session    one variant from boot to results    results       what came back, judged
report     the table and the JUnit file        program       running the host's programs

guest/init and guest/run run in the machine: its first process, and the job.
"""
