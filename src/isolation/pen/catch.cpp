// Compute threads run C++ operations: what they throw ends the domain, not the process.
#include "pen.h"

#include <exception>
#include <new>

extern "C" void * lp_pen_catch(void * (*body)(void *), void * data) {
    try {
        return body(data);
    } catch (const std::bad_alloc & e) {
        lp_pen_no_memory(e.what());
    } catch (const std::exception & e) {
        lp_pen_thrown(e.what());
    } catch (...) {
        lp_pen_thrown("an exception that is no std::exception");
    }
    // As it would have ended without us.
    std::terminate();
}
