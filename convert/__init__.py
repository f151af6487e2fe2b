"""A trained checkpoint -> files for devices, with evidence.

model.py       a checkpoint at the resolution of the device
edge_graph.py  the exact rewrite of the float model that everything is exported from
fold.py        its weights, each fold an identity;  edge_resnet.py  its convolutions
sites.py       its tensors that some scheme rounds, by name;  schemes.py  the table of schemes
extras.py      what the graph tells beside its logits: features, and where it looked
equalise.py    outlier channels of the residual stream brought to size, exactly, for int8
qat.py         calibration and quantization-aware fine-tuning of the edge graph with tfmot quantizers
tune.py        both for each scheme of an export
sensitivity.py what rounding each layer costs;  budget.py  returns the costly ones to float
tflite.py      the .tflite writer
tfjs.py        the TF.js format, written and read back;  tfjs_graph.py  the graph that goes into it
tfjs_ops.py    what TF.js has and is fastest in;  tfjs_weights.py  how it stores kernels
web.py         the web folder: page, engines, models and what they are checked by
prototypes.py  the trained classes as features, for devices to add to
metadata.py    labels, preprocessing and provenance into a .tflite: TFLite Metadata, for MediaPipe too
metadata_schema.py  the part of it that is a flatbuffer;  flatbuffer.py writes and inserts such
answers.py     what logits say, and how far from what others say
written.py     a written model of either format, to be run here
verify.py      what the written files do: parity, accuracy, speed, memory; the gate
reference.py   pictures and logits by which a device can check itself
extra_parity.py  the same of what the files tell beside their logits
report.py      the page that a person looks at; pictures.py, formats.py, report.html.jinja
export.py      all of it in order: what `tfvit convert` calls
"""
