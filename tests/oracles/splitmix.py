"""SplitMix64 on Python's integers."""

MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x &= MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def sequence(state: int, n: int) -> list[int]:
    """The generator's first n outputs, as published: add the golden ratio, then mix."""
    return [mix(state + (i + 1) * GOLDEN) for i in range(n)]


def clip_key(seed: int, step: int, clip_id: int) -> int:
    key = mix(clip_id + GOLDEN)
    key = mix((key ^ (seed & MASK_64)) + GOLDEN)
    return mix((key ^ (step & MASK_64)) + GOLDEN)


def signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
