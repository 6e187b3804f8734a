"""People of rounded rods and ellipsoids, standing or sitting, with the six body parts of PASCAL-Part."""

import numpy as np

from edgemtl.data.scenes import textures
from edgemtl.data.scenes.shapes import about_z, ellipsoid, limb
from edgemtl.data.scenes.textures import Rng
from edgemtl.data.scenes.things import Thing

HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)


def _down(forward: float, outward: float) -> np.ndarray:
    """(3,) the direction that hangs down, swung forwards (to -y) and outwards (to +x) by angles in radians."""
    return np.array([np.sin(outward), -np.sin(forward) * np.cos(outward), -np.cos(forward) * np.cos(outward)])


def person(rng: Rng, *, sitting: bool = False) -> Thing:
    """A person who faces -y, standing on the origin or, sitting, with the seat there."""
    h = rng.uniform(1.5, 1.92) if rng.random() < 0.8 else rng.uniform(1.05, 1.45)
    stout = rng.uniform(0.85, 1.3)
    shirt, trousers, skin = textures.fabric(rng), textures.fabric(rng), textures.skin(rng)
    sleeve = shirt if rng.random() < 0.55 else skin
    calf = trousers if rng.random() < 0.75 else skin
    shoe, hair = textures.plain(rng), textures.hair(rng)
    thing = Thing("person", (0.3 * h, 0.3 * h, h))

    thigh, shin, hip = 0.245 * h, 0.225 * h, np.array([0.05 * h * stout**0.5, 0, 0])
    lean = rng.uniform(-0.15, 0.3) if sitting else rng.normal(0, 0.06)
    feet = []
    for side in (-1, 1):
        mirror = np.array([side, 1, 1])
        forward = rng.uniform(1.35, 1.65) if sitting else rng.uniform(-0.25, 0.35)
        outward = rng.uniform(0.0, 0.25)
        bend = rng.uniform(1.2, 1.8) if sitting else rng.uniform(0, 0.4)
        start = hip * mirror
        knee = start + thigh * _down(forward, outward) * mirror
        ankle = knee + shin * _down(forward - bend, outward * 0.3) * mirror
        thing.add(limb(start, knee, 0.053 * h * stout, 0.036 * h * stout), trousers, UPPER_LEG)
        thing.add(limb(knee, ankle, 0.035 * h * stout, 0.023 * h), calf, LOWER_LEG)
        thing.add(
            ellipsoid(0.027 * h, 0.072 * h, 0.022 * h, segments=12).at(
                ankle[0], ankle[1] - 0.035 * h, ankle[2] - 0.014 * h
            ),
            shoe,
            LOWER_LEG,
        )
        feet.append(ankle[2] - 0.036 * h)

    spine = np.array([0, -np.sin(lean), np.cos(lean)])
    chest, neck = 0.19 * h * spine, 0.315 * h * spine
    trunk = 0.066 * h * stout
    thing.add(ellipsoid(0.088 * h * stout**0.5, trunk, 0.075 * h, power=2.4).at(*(0.015 * h * spine)), trousers, TORSO)
    thing.add(limb(0.04 * h * spine, chest, trunk, trunk * 1.02), shirt, TORSO)
    thing.add(ellipsoid(0.105 * h * stout**0.5, trunk * 0.98, 0.115 * h, power=2.6).at(*chest), shirt, TORSO)
    thing.add(limb(neck - 0.03 * h * spine, neck + 0.04 * h * spine, 0.032 * h, 0.028 * h), skin, HEAD)

    arm, forearm = 0.17 * h, 0.145 * h
    for side in (-1, 1):
        mirror = np.array([side, 1, 1])
        shoulder = 0.275 * h * spine + np.array([side * 0.108 * h * stout**0.5, 0, 0])
        raised = rng.random() < 0.12
        forward = rng.uniform(1.2, 2.6) if raised else rng.uniform(-0.3, 0.6)
        outward = rng.uniform(0.08, 0.5)
        bend = rng.uniform(0, 0.4) if rng.random() < 0.5 else rng.uniform(0.6, 1.7)
        elbow = shoulder + arm * _down(forward, outward) * mirror
        wrist = elbow + forearm * _down(forward + bend, outward * rng.uniform(-0.6, 0.8)) * mirror
        thing.add(limb(shoulder, elbow, 0.033 * h * stout**0.5, 0.025 * h), shirt, UPPER_ARM)
        thing.add(limb(elbow, wrist, 0.0245 * h, 0.018 * h), sleeve, LOWER_ARM)
        hand = wrist + (wrist - elbow) / forearm * 0.03 * h
        thing.add(ellipsoid(0.022 * h, 0.022 * h, 0.034 * h, segments=10).at(*hand), skin, LOWER_ARM)

    # A child's head is larger for its height.
    r = 0.055 * h + 0.012
    turn = about_z(rng.uniform(-0.9, 0.9))
    centre = neck + spine * (0.045 * h + r * 0.95)
    for shape, offset, paint in (
        (ellipsoid(r * 0.83, r * 0.95, r * 1.2), (0, 0, 0), skin),
        (ellipsoid(r * 0.9, r * 0.98, r * 0.95), (0, r * 0.16, r * 0.36), hair),
        (ellipsoid(r * 0.13, r * 0.2, r * 0.18, segments=8), (0, -r * 0.97, -r * 0.12), skin),
        (ellipsoid(r * 0.12, r * 0.08, r * 0.1, segments=8), (r * 0.3, -r * 0.84, r * 0.08), hair),
        (ellipsoid(r * 0.12, r * 0.08, r * 0.1, segments=8), (-r * 0.3, -r * 0.84, r * 0.08), hair),
        (
            ellipsoid(r * 0.25, r * 0.06, r * 0.05, segments=8),
            (0, -r * 0.78, -r * 0.58),
            textures.plain(rng, skin.colours[0] * (0.7, 0.4, 0.4)),
        ),
    ):
        thing.add(shape.at(*offset).turned(turn).at(*centre), paint, HEAD)
    if rng.random() < 0.35:  # long hair
        thing.add(ellipsoid(r * 0.85, r * 0.5, r * 1.5).at(0, r * 0.7, -r * 0.5).turned(turn).at(*centre), hair, HEAD)

    lift = 0.05 * h * stout if sitting else -min(feet)
    thing.parts = [(mesh.at(0, 0, lift), paint, body) for mesh, paint, body in thing.parts]
    return thing
