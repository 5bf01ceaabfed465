"""Reach one PCI function of this computer, or of another; what kind of card it is, is not asked.

`PciFunction` is the seam that every driver is written against. `tinygpu` and `remote` speak the
wire protocol of TinyGPU.app, `sysfs` and `vfio` are Linux, `find` says what is there, `lock` keeps
a card to one process.
"""
