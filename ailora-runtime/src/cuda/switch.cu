// Values that are kept beside the parameters, written to where plans read these: one launch for all of
// them. A block handles neighbours of one parameter.

// `Placed`, `Part` and `COUNT` are declared in switch.rs.

extern "C" __global__ void put(const Placed* all, const Part* parts, const float* values) {
    const Part part = parts[blockIdx.x];
    const Placed placed = all[part.placed];
    const u64 end = min(placed.len, u64(part.first) + COUNT);
    for (u64 i = part.first + threadIdx.x; i < end; i += blockDim.x) {
        const u64 row = i / placed.columns, column = i % placed.columns;
        const bool is_kept = row < placed.rows && column < placed.width;
        const float x = is_kept ? values[placed.start + row * placed.width + column] : 0.0f;
        const u64 place = i / placed.across * placed.stride + i % placed.across;
        if (placed.is_bf16) {
            st(static_cast<bf16*>(placed.place) + place, x);
        } else {
            static_cast<float*>(placed.place)[place] = x;
        }
    }
}
