"""A publisher's layout read into a native model: the family's table handed to transformers' loader, which
streams the tensors through it, quantised or not, one at a time."""

from __future__ import annotations

from functools import cache
from typing import Any

from transformers import PreTrainedModel
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import ConversionOps, WeightConverter, WeightRenaming

from xtune.families.family import Layout
from xtune.families.layout import Fused, Rename, split_rows


class SplitRows(ConversionOps):
    """split_rows, for transformers. It has no reverse, since what xtune writes goes through convert/layout.py."""

    def __init__(self, rows: str):
        self.rows = rows

    def convert(self, input_dict: dict[str, Any], source_patterns, target_patterns, config=None, **kwargs):
        (fused,) = input_dict.values()
        fused = fused[0] if isinstance(fused, list) else fused
        return dict(zip(target_patterns, split_rows(fused, self.rows, config), strict=True))


def load_original(path, layout: Layout, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """from_pretrained for a directory in a publisher's layout: the model, and transformers' loading info.

    The model's class is left as stock as the layout allows, without a memory of where its weights came from:
    checkpoints that transformers writes through a mapping, its Trainer does not find again on resuming.
    """
    model, info = reader_class(layout).from_pretrained(path, config=layout.native_config, **options)
    model.__class__ = layout.model_class
    if hasattr(model, "_weight_conversions"):
        del model._weight_conversions
    return model, info


def reader_class(layout: Layout) -> type[PreTrainedModel]:
    """The layout's model class, as one whose from_pretrained reads the publisher's names."""
    return _reader(layout.model_class, layout.name, layout.weights, layout.ignored)


@cache
def _reader(
    model_class: type[PreTrainedModel],
    name: str,
    weights: tuple[Rename | Fused, ...],
    ignored: tuple[str, ...],
) -> type[PreTrainedModel]:
    """A subclass under whose name, which is what transformers looks up, the table is registered."""
    reader = type(
        f"{model_class.__name__}_{name}",
        (model_class,),
        {"__module__": __name__, "_keys_to_ignore_on_load_unexpected": list(ignored)},
    )
    transforms: list[WeightRenaming | WeightConverter] = []
    for entry in weights:
        if isinstance(entry, Rename):
            transforms.append(WeightRenaming(entry.original, entry.native))
        else:
            transforms += [
                WeightConverter(
                    entry.original + kind,
                    [part + kind for part in entry.native],
                    operations=[SplitRows(entry.rows)],
                )
                for kind in ("weight", "bias")
            ]
    register_checkpoint_conversion_mapping(reader.__name__, transforms, overwrite=True)
    return reader
