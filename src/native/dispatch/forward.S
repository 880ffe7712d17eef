// The names of exports.h, for all who call the CPU backend: each is one jump through the chosen level's table. Only r11 is used,
// which belongs to nobody across a call.

    .text
    .hidden llamapen_cpu_functions
    .set place, 0

#define EXPORT(name) \
    .balign 16; .globl name; .hidden name; .type name, @function; \
name: .cfi_startproc; endbr64; movq llamapen_cpu_functions(%rip), %r11; jmp *place(%r11); .cfi_endproc; \
    .size name, . - name; .set place, place + 8

#include "exports.h"

    .section .note.GNU-stack, "", @progbits
