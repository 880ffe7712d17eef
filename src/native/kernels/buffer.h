#pragma once
#ifdef __cplusplus
extern "C" {
#endif

// Offers the buffer type of `buffer.cpp` to loaders from now on. Before the first model is loaded; once is enough.
void lp_lanes_register(void);

#ifdef __cplusplus
}
#endif
