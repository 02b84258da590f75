"""The exceptions of edgerun: each says where, what it is, and what was needed."""


class EdgerunError(Exception):
    """Base of every error that edgerun raises on purpose."""


class ModelError(EdgerunError, ValueError):
    """The model file, or the source model given to the packer, is wrong."""


class InputError(EdgerunError, ValueError):
    """An array, a name or an option given by the caller is wrong."""


class UnsupportedError(EdgerunError, NotImplementedError):
    """The request is valid, but edgerun does not implement it."""


class DeviceError(EdgerunError, RuntimeError):
    """OpenCL is missing, refused something, or a device ran out of memory."""
