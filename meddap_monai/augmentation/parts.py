"""Names of the parts of the ultrasound policy, in the order of their action, and what each does at strength 1."""

PARTS = {
    "blur": "axial blur to 0.6 and lateral blur to 1.2 px of 128, in 40 % of the images",
    "speckle": "multiplicative, of a deviation up to 0.25 in fine and 0.14 in coarse grain, 0.5 to 1.6 px of 128 wide",
    "shadows": "one or two acoustic shadows, in 25 % of the images",
    "probe": "from a linear to a convex field of view of up to 70 degrees, in 30 % of the images",
    "flip": "mirrored left to right, half of the images",
    "aspect": "width over height 0.8 to 1.2",
    "zoom": "0.6 to 1.3 of the size, which is what another depth setting does",
    "rotation": "up to 20 degrees to either side",
    "shift": "up to 15 % of the side in either direction",
    "gamma": "grey levels to the power of exp(-0.7) to exp(0.7)",
    "time_gain": "a gain that runs linearly over depth, up to 12 % of white at either end",
    "dynamic_range": "0.8 to 1.25 of the decibels between black and white",
    "gain": "grey levels times 0.7 to 1.3",
    "offset": "grey levels plus or minus up to 0.15 of white; black stays black",
    "marks": "calipers, dotted lines and figures in bright pixels, in 25 % of the images",
}
"""Part -> its action; `classify#augmentation_without` leaves some out."""
