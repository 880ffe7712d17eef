// Turns whatever llama.cpp throws into an lp_error. Every function of shim.h runs inside `guarded`.
#pragma once

#include "pen.h"
#include "shim.h"

#include <cstdio>
#include <exception>
#include <new>
#include <type_traits>

namespace llamapen {

inline LP_Status fail(lp_error * error, LP_Status status, const char * message) {
    if (error != nullptr) {
        error->status = status;
        std::snprintf(error->message, sizeof error->message, "%s", message);
    }
    return status;
}

// Inside, and only inside, the thread may be parked where it stands.
struct Pen {
    Pen() { lp_pen_enter(); }
    ~Pen() { lp_pen_leave(); }
};

// Around what runs in Rust.
struct Outside {
    const int depth = lp_pen_out();
    ~Outside() { lp_pen_back(depth); }
};

// Runs `body`; an exception becomes `error` and the value `otherwise`.
template <typename Body, typename Result>
Result guarded(lp_error * error, Result otherwise, Body body) noexcept {
    try {
        const Pen pen;
        return body();
    } catch (const std::bad_alloc & e) {
        fail(error, LP_OUT_OF_MEMORY, e.what());
    } catch (const std::exception & e) {
        fail(error, LP_EXCEPTION, e.what());
    } catch (...) {
        fail(error, LP_EXCEPTION, "an exception that is no std::exception");
    }
    // A status tells what was recorded; every other type has a value of its own for failure.
    if constexpr (std::is_same_v<Result, LP_Status>) {
        return error != nullptr ? static_cast<LP_Status>(error->status) : otherwise;
    }
    return otherwise;
}

}  // namespace llamapen
