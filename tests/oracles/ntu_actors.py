"""Two actors of an NTU recording, sighting by sighting in plain Python: literally, or with the habits of CTR-GCN."""

from statistics import fmean

Pose = list[list[float]]  # 25 joints of x, y, z
Frame = list[tuple[int, Pose]]  # bodies by id


def variance(poses: list[Pose]) -> float:
    total = 0.0
    for axis in range(3):
        values = [joint[axis] for pose in poses for joint in pose]
        mean = fmean(values)
        total += fmean([(v - mean) ** 2 for v in values])
    return total


def is_wide(pose: Pose) -> bool:
    xs, ys = [j[0] for j in pose], [j[1] for j in pose]
    return max(xs) - min(xs) > 0.8 * (max(ys) - min(ys))


def two_actors(frames: list[Frame], *, ctrgcn: bool) -> list[tuple[int, Pose | None, Pose | None]]:
    """For every kept frame its number and the poses of both actors."""
    numbers = [n for n, frame in enumerate(frames) if frame]
    seen: dict[int, list[tuple[int, Pose]]] = {}  # body id: (place among the frames with a body, pose)
    for place, number in enumerate(numbers):
        for body_id, pose in frames[number]:
            track = seen.setdefault(body_id, [])
            track.append((track[-1][0] + 1 if ctrgcn and track else place, pose))
    motion = {body_id: variance([pose for _, pose in track]) for body_id, track in seen.items()}
    left = list(seen)
    if len(left) > 1:
        long = [body_id for body_id in left if len(seen[body_id]) > 11]
        left = long or left
        for body_id in list(left):
            if len(left) == 1:
                break
            poses = [pose for _, pose in seen[body_id]]
            clean = [pose for pose in poses if not is_wide(pose)]
            if (len(poses) - len(clean)) / len(poses) >= 0.69754:
                left.remove(body_id)
            else:
                motion[body_id] = min(motion[body_id], variance(clean))
    left.sort(key=lambda body_id: motion[body_id], reverse=True)
    shown: list[dict[int, Pose]] = [{}, {}]
    taken: list[set[int]] = [set(), {0} if ctrgcn else set()]  # every place from an actor's first to its last
    for body_id in left:
        places = [place for place, _ in seen[body_id]]
        own = set(range(places[0], places[-1] + 1))
        for actor in (0, 1):
            # CTR-GCN measures an interval by its length, which is 0 for one frame
            if len(own & taken[actor]) <= (1 if ctrgcn else 0):
                shown[actor].update(dict(seen[body_id]))
                taken[actor] = set(range(min(own | taken[actor]), max(own | taken[actor]) + 1))
                break
    kept = sorted(set(shown[0]) | set(shown[1]))
    return [(numbers[place], shown[0].get(place), shown[1].get(place)) for place in kept]
