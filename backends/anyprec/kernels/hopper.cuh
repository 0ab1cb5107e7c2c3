// Hopper's tensor cores and copy engine. A product: 64 rows of unsigned bytes in a warpgroup's registers by 32 columns, times the
// signed bytes of some granules of eight tokens in shared memory, added to whole numbers. The instruction names every register,
// hence one text a size.
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
template <> DEVICE void wgmma<32>(int (*to)[4], const u32 *a, unsigned long long b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n256k32.s32.u8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, {%128, %129, %130, %131}, %132, 1;"
        : "+r"(to[0][0]), "+r"(to[0][1]), "+r"(to[0][2]), "+r"(to[0][3]), "+r"(to[1][0]), "+r"(to[1][1]), "+r"(to[1][2]), "+r"(to[1][3]), "+r"(to[2][0]), "+r"(to[2][1]), "+r"(to[2][2]), "+r"(to[2][3]), "+r"(to[3][0]), "+r"(to[3][1]), "+r"(to[3][2]), "+r"(to[3][3]), "+r"(to[4][0]), "+r"(to[4][1]), "+r"(to[4][2]), "+r"(to[4][3]), "+r"(to[5][0]), "+r"(to[5][1]), "+r"(to[5][2]), "+r"(to[5][3]), "+r"(to[6][0]), "+r"(to[6][1]), "+r"(to[6][2]), "+r"(to[6][3]), "+r"(to[7][0]), "+r"(to[7][1]), "+r"(to[7][2]), "+r"(to[7][3]), "+r"(to[8][0]), "+r"(to[8][1]), "+r"(to[8][2]), "+r"(to[8][3]), "+r"(to[9][0]), "+r"(to[9][1]), "+r"(to[9][2]), "+r"(to[9][3]), "+r"(to[10][0]), "+r"(to[10][1]), "+r"(to[10][2]), "+r"(to[10][3]), "+r"(to[11][0]), "+r"(to[11][1]), "+r"(to[11][2]), "+r"(to[11][3]), "+r"(to[12][0]), "+r"(to[12][1]), "+r"(to[12][2]), "+r"(to[12][3]), "+r"(to[13][0]), "+r"(to[13][1]), "+r"(to[13][2]), "+r"(to[13][3]), "+r"(to[14][0]), "+r"(to[14][1]), "+r"(to[14][2]), "+r"(to[14][3]), "+r"(to[15][0]), "+r"(to[15][1]), "+r"(to[15][2]), "+r"(to[15][3]), "+r"(to[16][0]), "+r"(to[16][1]), "+r"(to[16][2]), "+r"(to[16][3]), "+r"(to[17][0]), "+r"(to[17][1]), "+r"(to[17][2]), "+r"(to[17][3]), "+r"(to[18][0]), "+r"(to[18][1]), "+r"(to[18][2]), "+r"(to[18][3]), "+r"(to[19][0]), "+r"(to[19][1]), "+r"(to[19][2]), "+r"(to[19][3]), "+r"(to[20][0]), "+r"(to[20][1]), "+r"(to[20][2]), "+r"(to[20][3]), "+r"(to[21][0]), "+r"(to[21][1]), "+r"(to[21][2]), "+r"(to[21][3]), "+r"(to[22][0]), "+r"(to[22][1]), "+r"(to[22][2]), "+r"(to[22][3]), "+r"(to[23][0]), "+r"(to[23][1]), "+r"(to[23][2]), "+r"(to[23][3]), "+r"(to[24][0]), "+r"(to[24][1]), "+r"(to[24][2]), "+r"(to[24][3]), "+r"(to[25][0]), "+r"(to[25][1]), "+r"(to[25][2]), "+r"(to[25][3]), "+r"(to[26][0]), "+r"(to[26][1]), "+r"(to[26][2]), "+r"(to[26][3]), "+r"(to[27][0]), "+r"(to[27][1]), "+r"(to[27][2]), "+r"(to[27][3]), "+r"(to[28][0]), "+r"(to[28][1]), "+r"(to[28][2]), "+r"(to[28][3]), "+r"(to[29][0]), "+r"(to[29][1]), "+r"(to[29][2]), "+r"(to[29][3]), "+r"(to[30][0]), "+r"(to[30][1]), "+r"(to[30][2]), "+r"(to[30][3]), "+r"(to[31][0]), "+r"(to[31][1]), "+r"(to[31][2]), "+r"(to[31][3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
DEVICE void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LATER> DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LATER) : "memory"); }

// Products of each step that `has` names, ascending, each made from what was made before, in one set of registers or two by turns: the
// tensor cores work on one while the other is made. products(step, registers) begins them; the last may go on after the return. `busy`
// is the set they read, or -1.
template <int W, int SETS, typename Products>
DEVICE void each_step_by_turns(int has, const Words<W> &words, const Tables (&tables)[2], u32 (&made)[SETS][16], int &busy, Products products) {
    constexpr int ODD = SETS - 1;
    u32 codes[8];
    codes_of(codes, words);
    const auto ready = [&](int set) {
        if (SETS == 1 || busy == set) wgmma_wait<0>(); else wgmma_wait<1>();
    };
    const auto use = [&](auto step, int set) {
        if (!(has >> step & 1)) return;
        wgmma_begin();
        products(step, made[set]);
        wgmma_commit();
        busy = set;
    };
    if (has >> 2 & 1) { ready(ODD); look_up<2>(made[ODD], codes, words, tables); use(Number<2>(), ODD); }
    if (has >> 3 & 1) { ready(0); look_up<3>(made[0], codes, words, tables); use(Number<3>(), 0); }
    if constexpr (W >= 4) {
        if (has >> 4) { ready(ODD); look_up<4>(made[ODD], codes, words, tables); use(Number<4>(), ODD); }
    }
    if constexpr (W >= 6) {
        if (has >> 6) {
            ready(0);
            widen<6>(made[0], made[ODD], words);
            use(Number<6>(), 0);
        }
    }
    if constexpr (W >= 8) {
        if (has >> 8) {
            ready(ODD);
            widen<8>(made[ODD], made[0], words);
            use(Number<8>(), ODD);
        }
    }
}

// Tokens of 128 bytes, eight of them in 1,024, the next eight APART bytes on; their 16-byte pieces are swizzled.
template <int APART> DEVICE unsigned long long matrix_at(u32 at) { return at >> 4 & 0x3FFF | 1ull << 16 | (unsigned long long)(APART / 16) << 32 | 1ull << 62; }

DEVICE u32 address_of(const void *at) { return (u32)__cvta_generic_to_shared(at); }

// A barrier in shared memory: so many arrivals and bytes complete a phase.
DEVICE void barrier_init(u32 at, int arrivals) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory"); }
DEVICE void barriers_visible() { asm volatile("fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void arrive(u32 at) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory"); }
DEVICE void arrive_expecting(u32 at, u32 bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at), "r"(bytes) : "memory"); }
DEVICE void wait_for_phase(u32 at, u32 parity) {
    asm volatile("{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(at), "r"(parity) : "memory");
}
DEVICE bool has_phase(u32 at, u32 parity) {
    u32 done;
    asm volatile("{\n.reg .pred done;\nmbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\nselp.u32 %0, 1, 0, done;\n}" : "=r"(done) : "r"(at), "r"(parity) : "memory");
    return done;
}

// Bytes, a multiple of 16, to shared memory, sometime; a barrier counts them.
DEVICE void copy_bulk(u32 to, const char *from, u32 bytes, u32 barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// What was read and written here comes before copies by the engine, and products.
DEVICE void visible_to_engines() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

template <int COUNT> DEVICE void more_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> DEVICE void fewer_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT)); }
template <int COUNT> DEVICE void barrier_of(int which) { asm volatile("bar.sync %0, %1;" ::"r"(which), "n"(COUNT) : "memory"); }

// Four 8 x 8 matrices of pairs of bytes, turned: lane 4 g + t has row g, columns 2 t and 2 t + 1; lane 8 i + j names where the 16
// bytes of column j of matrix i go.
DEVICE void store_turned(const void *to, const u32 (&from)[4]) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};"
        ::"r"(address_of(to)), "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3]) : "memory");
}

// Four whole numbers in the shared memory of a block of this cluster.
DEVICE int4 of_block(const int4 *at, int rank) {
    u32 there;
    int4 found;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address_of(at)), "r"(rank));
    asm volatile("ld.shared::cluster.v4.s32 {%0, %1, %2, %3}, [%4];" : "=r"(found.x), "=r"(found.y), "=r"(found.z), "=r"(found.w) : "r"(there) : "memory");
    return found;
}
