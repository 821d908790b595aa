"""The seven classes of the label maps."""

CLASSES = ("sky", "ground", "road", "marking", "vehicle", "vegetation", "building")
SKY, GROUND, ROAD, MARKING, VEHICLE, VEGETATION, BUILDING = range(len(CLASSES))
