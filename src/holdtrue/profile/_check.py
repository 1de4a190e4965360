"""Refuses a profile that was measured for something else."""

from collections.abc import Collection

from holdtrue.errors import UsageError

from ._profile import Profile


def check_profile(
    profile: Profile,
    *,
    kinds: Collection[str] = (),
    model: str | None = None,
    torch_version: str | None = None,
) -> None:
    """Checks that the profile was measured for this model, these devices and this torch.

    Args:
        profile: What was read.
        kinds: Kinds of device that are to be used.
        model: Name or hash of the model that is to be trained; None does not check.
        torch_version: Version of torch that is to be used; None does not check.

    Raises:
        UsageError: the profile is of another model or torch version, or a kind has no entry.
    """
    if model is not None and model not in (profile.model_name, profile.model_hash):
        raise UsageError(
            f"the profile is of model {profile.model_name} (hash {profile.model_hash or 'unknown'}), and the "
            f"job's is {model}; "
            f"passes of another model take another time. Run `holdtrue profile` for this model."
        )
    if torch_version is not None and torch_version != profile.torch_version:
        raise UsageError(
            f"the profile was measured with torch {profile.torch_version}, and the job runs {torch_version}; "
            f"passes take another time with another torch. Run `holdtrue profile` again."
        )
    known = {device.kind for device in profile.devices}
    strangers = sorted(set(kinds) - known)
    if strangers:
        raise UsageError(
            f"there is no profile for {', '.join(strangers)}; this one has {', '.join(sorted(known))}. "
            f"Run `holdtrue profile` on such a device, or leave it out of --devices."
        )
