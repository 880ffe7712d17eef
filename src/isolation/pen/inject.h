// What the shim gives to inject.cpp, in builds with fault injection.
#pragma once

#include "pen.h"

// Of the model that was loaded last: mapped from its file, if that is how it was loaded.
extern volatile char * lp_inject_weights;
