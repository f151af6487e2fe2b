"""What a run learns: from labels, or without any by masked patches or a masked autoencoder.

The training loop asks its objective for the loss of a step, the evaluation, and the pictures to show:
`labels.Labels` or `masked_modeling.MaskedModeling`.
"""

# without labels: how patches are hidden (`masking`), and what is predicted of them (`targets`)
OBJECTIVES = ("masked-patch", "mae")
TARGETS = ("mean-color", "low-res", "full", "normalized")
