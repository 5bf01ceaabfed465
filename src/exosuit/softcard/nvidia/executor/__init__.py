"""The engines of an NVIDIA card: channels, pushbuffers, copies and launches of PTX.

Both software models use it, the one of NVIDIA's kernel driver and the one of a whole PCI card; each
brings its own memory, and tells what goes wrong in its own way.
"""
