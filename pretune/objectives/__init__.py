"""Self-supervised objectives, one per file: what to corrupt, what to predict, the loss."""

SHARED_MODULES = (
    "contrastive",
    "label_contrast",
    "mixture",
    "objective",
    "root_module",
    "same_texts",
    "sentence_pair",
    "source_target",
    "text_teacher",
)
