/* What the generated binding includes before its own code: the whole C API and nothing else. */
#include "akvm/akvm.h"
#include "akvm/beneath.h"
