"""NVIDIA cards without NVIDIA's driver: see `card` for the boot, `route` for what comes after."""

from exosuit.driver.nvidia.bare_metal.card import Card
from exosuit.driver.nvidia.bare_metal.route import BareMetalRoute

__all__ = ["BareMetalRoute", "Card"]
