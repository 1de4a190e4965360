"""What a pass costs on each kind of device: measured once, on disk, reused.

    in:  profile files (JSON), or measured points
    out: Profile; seconds and peak bytes of a pass of any size that the points cover

Reading and checking only, no torch: whoever measures builds a `Profile` and calls `write_profile`.
"""

from ._assemble import (
    LOST,
    TRIAL_PASSES,
    DeviceFacts,
    Trial,
    assemble_device,
    describe_failures,
    fit_exchange,
    sizes_of_interest,
)
from ._check import check_profile
from ._file import PROFILE_VERSION, format_profile, merge_profiles, parse_profile, read_profile, write_profile
from ._profile import DeviceProfile, PassPoint, Profile

__all__ = [
    "LOST",
    "PROFILE_VERSION",
    "TRIAL_PASSES",
    "DeviceFacts",
    "DeviceProfile",
    "PassPoint",
    "Profile",
    "Trial",
    "assemble_device",
    "check_profile",
    "describe_failures",
    "fit_exchange",
    "format_profile",
    "merge_profiles",
    "parse_profile",
    "read_profile",
    "sizes_of_interest",
    "write_profile",
]
