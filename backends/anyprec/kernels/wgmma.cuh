// Hopper's tensor cores: 64 rows of unsigned bytes in a warpgroup's registers by 32 columns, times the signed bytes of some
// granules of eight tokens in shared memory, added to whole numbers. The instruction names every register, hence one text a size.
#pragma once

template <int COUNT> DEVICE void wgmma(int (*to)[4], const u32 *a, unsigned long long b);
template <> DEVICE void wgmma<1>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k32.s32.u8.s8 {%0, %1, %2, %3}, {%4, %5, %6, %7}, %8, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> DEVICE void wgmma<2>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n16k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, %6, %7}, {%8, %9, %10, %11}, %12, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]), "+r"(to[1][0]), "+r"(to[1][1]), "+r"(to[1][2]), "+r"(to[1][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> DEVICE void wgmma<4>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n32k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, %20, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]), "+r"(to[1][0]), "+r"(to[1][1]), "+r"(to[1][2]), "+r"(to[1][3]), "+r"(to[2][0]), "+r"(to[2][1]), "+r"(to[2][2]), "+r"(to[2][3]), "+r"(to[3][0]), "+r"(to[3][1]), "+r"(to[3][2]), "+r"(to[3][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> DEVICE void wgmma<8>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]), "+r"(to[1][0]), "+r"(to[1][1]), "+r"(to[1][2]), "+r"(to[1][3]), "+r"(to[2][0]), "+r"(to[2][1]), "+r"(to[2][2]), "+r"(to[2][3]), "+r"(to[3][0]), "+r"(to[3][1]), "+r"(to[3][2]), "+r"(to[3][3]), "+r"(to[4][0]), "+r"(to[4][1]), "+r"(to[4][2]), "+r"(to[4][3]), "+r"(to[5][0]), "+r"(to[5][1]), "+r"(to[5][2]), "+r"(to[5][3]), "+r"(to[6][0]), "+r"(to[6][1]), "+r"(to[6][2]), "+r"(to[6][3]), "+r"(to[7][0]), "+r"(to[7][1]), "+r"(to[7][2]), "+r"(to[7][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
template <> DEVICE void wgmma<16>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]), "+r"(to[1][0]), "+r"(to[1][1]), "+r"(to[1][2]), "+r"(to[1][3]), "+r"(to[2][0]), "+r"(to[2][1]), "+r"(to[2][2]), "+r"(to[2][3]), "+r"(to[3][0]), "+r"(to[3][1]), "+r"(to[3][2]), "+r"(to[3][3]), "+r"(to[4][0]), "+r"(to[4][1]), "+r"(to[4][2]), "+r"(to[4][3]), "+r"(to[5][0]), "+r"(to[5][1]), "+r"(to[5][2]), "+r"(to[5][3]), "+r"(to[6][0]), "+r"(to[6][1]), "+r"(to[6][2]), "+r"(to[6][3]), "+r"(to[7][0]), "+r"(to[7][1]), "+r"(to[7][2]), "+r"(to[7][3]), "+r"(to[8][0]), "+r"(to[8][1]), "+r"(to[8][2]), "+r"(to[8][3]), "+r"(to[9][0]), "+r"(to[9][1]), "+r"(to[9][2]), "+r"(to[9][3]), "+r"(to[10][0]), "+r"(to[10][1]), "+r"(to[10][2]), "+r"(to[10][3]), "+r"(to[11][0]), "+r"(to[11][1]), "+r"(to[11][2]), "+r"(to[11][3]), "+r"(to[12][0]), "+r"(to[12][1]), "+r"(to[12][2]), "+r"(to[12][3]), "+r"(to[13][0]), "+r"(to[13][1]), "+r"(to[13][2]), "+r"(to[13][3]), "+r"(to[14][0]), "+r"(to[14][1]), "+r"(to[14][2]), "+r"(to[14][3]), "+r"(to[15][0]), "+r"(to[15][1]), "+r"(to[15][2]), "+r"(to[15][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LATER> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATER) : "memory"); }
DEVICE void visible_to_wgmma() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Tokens of 128 bytes, eight of them in 1,024, their 16-byte pieces swizzled.
DEVICE unsigned long long matrix_at(const char *at) {
    return (u32)__cvta_generic_to_shared(at) >> 4 & 0x3FFF | 1ull << 16 | 64ull << 32 | 1ull << 62;
}
