/* An external delegate of LiteRT that takes a whole model and answers what its options say.

   answer=N  the label's number: output 0 is 9 there, 0 elsewhere
   refuse=1  is an error when it is created; refuse=2 when it sees a model; refuse=3 when it runs
   take=0    takes nothing of a model

   Its types are those of the public C API, tflite/core/c/common.h, as far as it needs them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { OK, ERROR };
typedef struct Context Context;
typedef struct Node Node;
typedef struct Delegate Delegate;
typedef struct {
  int size;
  int data[];
} IntArray;
typedef struct {
  int type;
  float* data;
  IntArray* dims;
  char rest[88]; /* quantization, allocation, name, delegate, sparsity, signature */
} Tensor;
typedef struct {
  void* (*init)(Context*, const char*, size_t);
  void (*free)(Context*, void*);
  int (*prepare)(Context*, Node*);
  int (*invoke)(Context*, Node*);
  const char* (*profiling_string)(const Context*, const Node*);
  int32_t builtin_code;
  const char* custom_name;
  int version;
  void* external;
  void* async_kernel;
  uint64_t inplace_operator;
} Registration;
struct Node {
  IntArray *inputs, *outputs;
};
struct Context {
  size_t tensors_size;
  int (*GetExecutionPlan)(Context*, IntArray**);
  Tensor* tensors;
  void* impl;
  int (*ResizeTensor)(Context*, Tensor*, IntArray*);
  void (*ReportError)(Context*, const char*, ...);
  int (*AddTensors)(Context*, int, int*);
  int (*GetNodeAndRegistration)(Context*, int, Node**, Registration**);
  int (*ReplaceNodeSubsetsWithDelegateKernels)(Context*, Registration, const IntArray*, Delegate*);
};
struct Delegate {
  void* data;
  int (*Prepare)(Context*, Delegate*);
  int (*CopyFromBufferHandle)(void);
  int (*CopyToBufferHandle)(void);
  void (*FreeBufferHandle)(void);
  int64_t flags;
  void* opaque_delegate_builder;
};

static int answer = 0, refuse = 0, take = 1;

static int nothing(Context* context, Node* node) { return OK; }

static int run(Context* context, Node* node) {
  Tensor* output = &context->tensors[node->outputs->data[0]];
  int labels = output->dims->data[output->dims->size - 1];
  for (int i = 0; i < labels; i++) output->data[i] = i == answer ? 9 : 0;
  if (refuse == 3) context->ReportError(context, "the chip is too hot\n");
  return refuse == 3 ? ERROR : OK;
}

static int see_model(Context* context, Delegate* delegate) {
  IntArray* plan;
  Registration kernel = {.prepare = nothing, .invoke = run, .custom_name = "answer", .version = 1};
  if (refuse == 2) context->ReportError(context, "the model is too large for the chip\n");
  if (refuse == 2) return ERROR;
  if (!take) return OK;
  if (context->GetExecutionPlan(context, &plan)) return ERROR;
  return context->ReplaceNodeSubsetsWithDelegateKernels(context, kernel, plan, delegate);
}

void* tflite_plugin_create_delegate(char** keys, char** values, size_t count,
                                    void (*report_error)(const char*)) {
  Delegate* delegate = calloc(1, sizeof(Delegate));
  answer = refuse = 0;
  take = 1;
  for (size_t i = 0; i < count; i++) {
    if (!strcmp(keys[i], "answer")) answer = atoi(values[i]);
    if (!strcmp(keys[i], "refuse")) refuse = atoi(values[i]);
    if (!strcmp(keys[i], "take")) take = atoi(values[i]);
  }
  if (refuse == 1) report_error("there is no such chip\n");
  if (refuse == 1) return NULL;
  delegate->Prepare = see_model;
  return delegate;
}

void tflite_plugin_destroy_delegate(void* delegate) { free(delegate); }
