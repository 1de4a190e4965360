"""Keeps a Ray cluster of this machine's own on loopback: a file that Ray's own processes can run by its path."""

LOOPBACK = "127.0.0.1"


def stay_on_loopback(address: str) -> None:
    """Have Ray take 127.0.0.1 for what it is, where `address` is there.

    Ray replaces it by the machine's address in the network, and then listens on every interface.

    Raises:
        RuntimeError: this version of Ray has no such place to take hold of.
    """
    if not address.startswith(LOOPBACK):
        return
    from ray._private import services

    if not hasattr(services, "resolve_ip_for_localhost"):
        raise RuntimeError(
            "this version of Ray cannot be kept on loopback; use one that `holdtrue[ray]` names"
        )
    services.resolve_ip_for_localhost = lambda host: host


if __name__ == "__main__":
    stay_on_loopback(LOOPBACK)
    from ray.scripts.scripts import main

    main()
