"""A plan as lines of text."""

from oskar.planning.plan import Plan


def as_text(plan: Plan) -> str:
    """What ``oskar plan`` prints: one quantity a line, and what to do where the batch does not fit."""
    memory = plan.memory
    per_device = "" if plan.n_devices == 1 else f" on each of {plan.n_devices} devices"
    rows = [
        ("parameters", f"{plan.n_parameters:,}, of them {plan.n_encoder_parameters:,} in the encoder"),
        ("FLOPs per clip", f"{plan.flops_per_clip / 1e9:,.1f} G, forward and backward"),
        ("device", f"{plan.device}, {plan.precision}, {plan.threads} threads"),
        ("memory" + per_device, f"{size(memory.peak)} at most, {clips(plan.clips_per_part)} at once"),
        ("  weights", size(memory.weights)),
        ("  momentum encoders", size(memory.momentum)),
        ("  optimiser", size(memory.optimizer)),
        ("  gradients", size(memory.gradients)),
        ("  activations", size(memory.activations)),
        ("  batch", size(memory.batch)),
        ("  process", size(memory.process)),
        ("free now", "not known" if memory.available is None else size(memory.available)),
        ("largest part that fits", "not known" if plan.largest_part is None else clips(plan.largest_part)),
        *_measured(plan),
        ("disk", f"{size(plan.disk_bytes)} at most, a checkpoint {size(plan.checkpoint_bytes)}"),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{plan.recipe}", *(f"{name:<{width}}  {value}" for name, value in rows)]
    if plan.largest_part is not None and plan.largest_part < plan.clips_per_part:
        lines.append(advice(plan))
    return "\n".join(lines)


def _measured(plan: Plan) -> list[tuple[str, str]]:
    rate = plan.rate
    if rate is None:
        return [("rate", "not measured: not even one clip fits")]
    return [
        ("rate", f"{rate.clips_per_second:,.2f} clips/s, {rate.flops_per_second / 1e9:,.0f} GFLOP/s in the probe"),
        ("step", f"{rate.step_seconds:,.2f} s"),
        ("run", f"{plan.steps:,} steps in {rate.hours:,.1f} hours, if workers read clips as fast"),
        ("masks and tokens", f"{1e3 * rate.mask_seconds_per_clip:,.1f} ms a clip in a worker"),
    ]


def advice(plan: Plan) -> str:
    """What to set where the batch does not fit."""
    if not plan.largest_part:
        return "does not fit: not even one clip does. Use a smaller recipe, or a device with more memory"
    n_parts = -(-plan.clips_per_part // plan.largest_part)
    while plan.clips_per_part % n_parts:
        n_parts += 1
    return f"does not fit: compute each part in {n_parts} (train.accumulation), or lower train.batch_size"


def size(n_bytes: float) -> str:
    """Bytes with a unit that leaves at least one digit before the point."""
    for unit in ("B", "KB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.2f} GB"


def clips(n: int) -> str:
    return f"{n:,} clip" if n == 1 else f"{n:,} clips"
