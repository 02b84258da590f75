"""Where error enters a model file: every op against the same op in fp32, and against the integers
of the source model's own runtime."""
from edgerun.tools.layers.measure import Layer, Layers, layers
from edgerun.tools.layers.reference import Reference, reference_of
from edgerun.tools.layers.source import Inside, has_inside, inside
from edgerun.tools.layers.text import as_dict, layers_text, sentences

__all__ = ["Inside", "Layer", "Layers", "Reference", "as_dict", "has_inside", "inside", "layers",
           "layers_text", "reference_of", "sentences"]
