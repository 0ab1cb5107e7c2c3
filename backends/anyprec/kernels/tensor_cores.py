"""Hopper's wgmma as functions for many.cu: the instruction names each register, so its text depends on the size."""

from __future__ import annotations

_TEXT = """#pragma once
#ifndef ON_CPU
// sums (64, PLACES), or zeros unless `add`, plus the registers' weights times 16 columns of x at a byte of shared
// memory: 128-byte rows, eight of them in 1,024 bytes, their 16-byte pieces swizzled.
__device__ __forceinline__ void wgmma(float (&sums)[{sums}], const u32 (&part)[4], u32 at, bool add) {{
    const unsigned long long where =
        ((__cvta_generic_to_shared(shared) + at) >> 4 & 0x3FFF) | 1ull << 16 | 64ull << 32 | 1ull << 62;
    asm volatile("{{ .reg .pred p; setp.ne.b32 p, %{add}, 0;"
        "wgmma.mma_async.sync.aligned.m64n{places}k16.f32.bf16.bf16 "
        "{{{named}}}, {{{weights}}}, %{where}, p, 1, 1, 0; }}"
        : {outputs}
        : "r"(part[0]), "r"(part[1]), "r"(part[2]), "r"(part[3]), "l"(where), "r"((int)add));
}}
__device__ __forceinline__ void wgmma_begin() {{ asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }}
__device__ __forceinline__ void wgmma_commit() {{ asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }}
template <int LATER> __device__ __forceinline__ void wgmma_wait() {{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATER) : "memory");
}}
__device__ __forceinline__ void visible_to_wgmma() {{ asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }}
__device__ __forceinline__ void group_barrier(int group) {{
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}}
#endif
"""


def header(places: int) -> str:
    """wgmma.cuh for products with so many rows of x: 16, 32, 64 or 128."""
    sums = places // 2
    return _TEXT.format(
        places=places,
        sums=sums,
        named=", ".join(f"%{i}" for i in range(sums)),
        weights=", ".join(f"%{sums + i}" for i in range(4)),
        where=sums + 4,
        add=sums + 5,
        outputs=", ".join(f'"+f"(sums[{i}])' for i in range(sums)),
    )
