"""Literal data that the makers of the data sets published: archives, checksums, counts, ids."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        file: Its name.
        page: The web page on which a person finds it.
        urls: Download addresses, tried in order; none if the file is behind a login or a form.
        size: Bytes, where known.
        digest: "md5:...", "sha1:..." or "sha256:..." (or the first digits of it), where one is
            published.
        other_folders: Folders below a root in which people commonly keep it.
    """

    file: str
    page: str
    urls: tuple[str, ...] = ()
    size: int | None = None
    digest: str | None = None
    other_folders: tuple[str, ...] = ()


_VOC = "http://host.robots.ox.ac.uk/pascal/VOC"
# The first host is often out of service, so this one of the same group is tried before it.
_VOC_MIRROR = "https://thor.robots.ox.ac.uk/pascal/VOC"
_SBD = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_COCO = "https://cocodataset.org/#download"
_STUFF = (
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/"
    "stuffthingmaps_trainval2017.zip"
)
_DETAIL = "https://codalabuser.blob.core.windows.net/public/trainval_merged.json"
_CITYSCAPES = "https://www.cityscapes-dataset.com/downloads/"


def _coco(file: str, size: int, md5: str, folder: str = "zips") -> Archive:
    return Archive(
        file, _COCO, (f"http://images.cocodataset.org/{folder}/{file}",), size, f"md5:{md5}"
    )


ARCHIVES = {
    "voc2012": Archive(
        "VOCtrainval_11-May-2012.tar",
        f"{_VOC}/voc2012/",
        (
            f"{_VOC_MIRROR}/voc2012/VOCtrainval_11-May-2012.tar",
            f"{_VOC}/voc2012/VOCtrainval_11-May-2012.tar",
        ),
        1_999_639_040,
        "md5:6cd6e144f989b92b3379bac3b3de84fd",
    ),
    # The checksums of VOC and SBD are those that torchvision states; their makers publish none.
    "sbd": Archive(
        "benchmark.tgz",
        _SBD,
        (f"{_SBD}/benchmark.tgz",),
        None,
        "md5:82b4d87ceb2ed10f6038a1cba92111cb",
    ),
    "voc2010": Archive(
        "VOCtrainval_03-May-2010.tar",
        f"{_VOC}/voc2010/",
        (
            f"{_VOC_MIRROR}/voc2010/VOCtrainval_03-May-2010.tar",
            f"{_VOC}/voc2010/VOCtrainval_03-May-2010.tar",
        ),
        None,
        "md5:da459979d0c395079b5c75ee67908abb",
    ),
    "detail": Archive(
        "trainval_merged.json",
        _DETAIL,
        (_DETAIL,),
        None,
        "sha1:169325d9f7e9047537fedca7b04de4dddf10b881",
        ("VOCdevkit/VOC2010", "VOC2010"),
    ),
    "train2017": _coco("train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2"),
    "val2017": _coco("val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80"),
    "stuff": Archive(
        "stuffthingmaps_trainval2017.zip", "https://github.com/nightrome/cocostuff", (_STUFF,)
    ),
    "train2014": _coco("train2014.zip", 13_510_573_713, "0da8cfa0e090c266b78f30e2d2874f1a"),
    "val2014": _coco("val2014.zip", 6_645_013_297, "a3d79f5ed8d289b7a7554ce06a5782b3"),
    "instances2014": _coco(
        "annotations_trainval2014.zip",
        252_872_794,
        "0a379cfc70b0e71301e0f377548639bd",
        "annotations",
    ),
    "ade": Archive(
        "ADEChallengeData2016.zip",
        "http://sceneparsing.csail.mit.edu",
        ("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",),
        None,
        "sha1:219e1696abb36c8ba3a3afe7fb2f4b4606a897c7",
    ),
    # Behind a request form, and without a published checksum.
    "ade-full": Archive(
        "ADE20K_2021_17_01.zip", "https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/"
    ),
    "cityscapes-images": Archive(
        "leftImg8bit_trainvaltest.zip", _CITYSCAPES, digest="md5:0a6e97e94b616a514066c9e2adb0c97f"
    ),
    "cityscapes-masks": Archive(
        "gtFine_trainvaltest.zip", _CITYSCAPES, digest="md5:4237c19de34c8a376e9ba46b495d6f66"
    ),
}
"""Sizes and checksums are given where at least one source states them. (One public script wrongly
swaps those of train2017 and val2017.)"""

PUBLISHED_COUNTS = {
    "voc": {
        "JPEGImages": 17_125,
        "SegmentationClass": 2_913,
        "SegmentationClassAug": 12_031,
        "train": 1_464,
        "val": 1_449,
        "aug": 9_118,
        "trainaug": 10_582,
        "sbd": 11_355,
    },
    "coco-stuff": {"train2017": 118_287, "val2017": 5_000},
    # Fewer masks than images: an image without annotated objects has none.
    "coco-20i": {
        "train2014": 82_783,
        "val2014": 40_504,
        "masks train2014": 82_081,
        "masks val2014": 40_137,
    },
    "ade20k-150": {"training": 20_210, "validation": 2_000},
    "ade20k-847": {"validation": 2_000},
    "cityscapes": {"train": 2_975, "val": 500, "test": 1_525},
}
"""Numbers of images or masks of each data set when it is complete."""
CONTEXT_COUNTS = {"train": (4_996, 4_998), "val": (5_104, 5_105)}
"""Images on Context's lists: the number that the maintainer of the Detail package gives, and that
of the earlier lists."""
COCO_20I_VAL_COUNTS = ((26_052, 35_783), (15_305, 17_912), (13_138, 14_563), (12_640, 14_315))
"""COCO-20i: (images, (image, class) pairs) of the four folds in which a novel class covers 2048
pixels, in the masks that the lists were made from."""

# COCO's category ids run to 90 with gaps: ten categories were never annotated.
COCO_IDS = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28,
    31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 46, 47, 48, 49, 50, 51, 52, 53, 54,
    55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 67, 70, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81,
    82, 84, 85, 86, 87, 88, 89, 90,
)  # fmt: skip
"""COCO's 80 category ids in the order of `classes.COCO`."""

CONTEXT_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113,
    115, 144, 158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326,
    347, 349, 354, 355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)  # fmt: skip
"""PASCAL-in-Detail's category ids in the order of `classes.CONTEXT`."""

COCO_STUFF_ABSENT = (
    11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90,
)  # fmt: skip
"""Values of COCO-Stuff's masks that stand for things nobody annotated (street sign, hat, shoe,
...)."""

CITYSCAPES_IDS = (
    7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
)  # fmt: skip
"""Cityscapes' label ids of the 19 classes that are scored, in the order of their training ids."""

ADE_FULL_IDS = (
    2978, 312, 2420, 2855, 2131, 976, 447, 165, 2377, 838, 350, 1831, 1125, 3055, 401, 1610, 1910,
    2684, 471, 687, 774, 2473, 2264, 1735, 2994, 1564, 1276, 2178, 2329, 57, 907, 913, 1395, 2138,
    2272, 2128, 724, 155, 2053, 2380, 689, 1788, 3087, 2530, 581, 2388, 2985, 2454, 2096, 137,
    294, 212, 2185, 524, 2212, 943, 1869, 2251, 2793, 2423, 1121, 266, 1948, 1744, 783, 571, 627,
    629, 491, 1374, 223, 3016, 2598, 978, 239, 608, 236, 2531, 2616, 591, 327, 2679, 1451, 181,
    420, 2821, 1023, 855, 2733, 2928, 1240, 77, 1969, 2880, 14, 1936, 2828, 631, 103, 3144, 308,
    1282, 38, 1563, 29, 480, 2569, 247, 187, 778, 2243, 1941, 2833, 120, 95, 2836, 1087, 868,
    1401, 220, 47, 843, 123, 2537, 1927, 2337, 1702, 64, 249, 642, 1981, 609, 2840, 2586, 1393,
    2704, 1304, 146, 1494, 2739, 389, 1551, 131, 738, 161, 747, 1919, 3109, 2179, 2989, 206, 1930,
    1002, 2254, 1708, 2526, 160, 2901, 2262, 44, 597, 2235, 1260, 682, 2151, 3107, 432, 1098,
    2932, 461, 410, 2046, 533, 1481, 1858, 894, 1322, 1891, 1756, 49, 1272, 1229, 2850, 1784,
    2962, 259, 319, 954, 1974, 1013, 2356, 97, 318, 592, 2885, 1017, 851, 1407, 1332, 303, 2714,
    1924, 1346, 1081, 1583, 2727, 2509, 2123, 602, 202, 10, 490, 530, 2213, 1884, 2934, 2687, 387,
    2668, 982, 2547, 1474, 877, 1391, 414, 698, 2019, 2422, 3010, 1139, 753, 1747, 2175, 1301,
    1033, 1789, 2939, 2730, 1652, 90, 1349, 2830, 1485, 2370, 2155, 118, 1402, 1957, 3130, 1197,
    52, 2688, 96, 762, 772, 1857, 2315, 1016, 643, 3105, 1849, 791, 349, 6, 3114, 1587, 1233, 559,
    1223, 3049, 1943, 853, 709, 1390, 2748, 2007, 1546, 1513, 2600, 2538, 1790, 194, 326, 2877,
    594, 2036, 1662, 2366, 1754, 418, 2553, 1951, 1963, 918, 2086, 997, 2731, 704, 1365, 569,
    3108, 948, 839, 63, 1305, 378, 2362, 2734, 2982, 2398, 1119, 382, 1141, 1805, 3102, 2341,
    1131, 2316, 2626, 3104, 198, 1896, 2800, 190, 3131, 1463, 357, 929, 209, 912, 1164, 1509,
    2539, 3116, 2615, 1644, 818, 242, 2217, 2347, 2686, 2300, 572, 789, 358, 2443, 101, 2969,
    2692, 606, 2339, 1533, 2060, 1782, 495, 371, 2707, 889, 3156, 2683, 1499, 1135, 1619, 125,
    2838, 2792, 1695, 746, 1343, 1370, 2858, 145, 2565, 1892, 1103, 286, 170, 3073, 922, 1655,
    1602, 2160, 1151, 2176, 2239, 132, 394, 1424, 607, 700, 116, 1425, 2676, 141, 2360, 2449, 897,
    317, 2228, 2351, 1543, 656, 1088, 373, 2472, 2892, 1740, 3067, 1367, 188, 79, 1633, 1885, 677,
    1779, 1297, 2334, 3027, 2735, 1791, 2405, 1748, 2983, 3035, 2824, 2168, 385, 2148, 2465, 175,
    390, 268, 2722, 2857, 3088, 2926, 2782, 1378, 1934, 2072, 2889, 944, 1158, 1383, 867, 2145,
    1915, 361, 402, 482, 2761, 300, 1554, 636, 260, 1186, 871, 2859, 2103, 208, 2236, 2012, 2462,
    1462, 2832, 2617, 1024, 1129, 18, 376, 134, 407, 434, 2017, 2717, 2005, 2993, 1545, 1445,
    2831, 1161, 2411, 2949, 1769, 552, 2327, 939, 3013, 1986, 1486, 2723, 1549, 2649, 1020, 392,
    422, 1419, 2099, 2464, 3058, 430, 675, 2941, 2955, 2355, 840, 32, 2338, 1232, 2834, 2991,
    2879, 444, 1657, 2246, 296, 245, 2661, 1202, 1714, 251, 1095, 1828, 311, 2732, 947, 2115,
    2738, 2525, 2194, 634, 740, 2682, 2020, 1156, 1036, 1295, 1181, 3037, 1614, 736, 893, 2047,
    1274, 1361, 3036, 2606, 2797, 2022, 2876, 2758, 472, 3028, 882, 1189, 743, 3122, 2401, 468,
    1061, 1523, 3059, 2843, 2853, 1529, 214, 3032, 3071, 277, 813, 426, 1039, 727, 1508, 2490,
    2299, 768, 1172, 537, 1847, 1664, 1110, 1014, 662, 121, 227, 2410, 2165, 2696, 3005, 1231,
    635, 292, 2690, 65, 2607, 2574, 1188, 456, 2913, 459, 1955, 827, 1111, 2412, 2997, 528, 366,
    1863, 500, 1001, 1958, 1441, 809, 210, 435, 718, 1674, 388, 1572, 1584, 1944, 674, 99, 2352,
    1019, 1763, 185, 554, 1066, 2508, 951, 2822, 415, 297, 1914, 2619, 1338, 2505, 955, 2786, 238,
    3000, 2763, 299, 822, 1288, 3101, 2894, 992, 489, 2157, 2309, 1576, 1810, 2964, 2662, 2087,
    1569, 503, 1505, 1468, 1613, 1138, 1256, 2715, 2846, 477, 2576, 108, 2245, 1162, 2149, 2183,
    858, 1324, 1055, 1741, 149, 615, 825, 2143, 304, 283, 2322, 3017, 2510, 1960, 265, 2282, 2184,
    1461, 3113, 2372, 2166, 232, 693, 1945, 3039, 2494, 1908, 2827, 280, 2950, 1044, 288, 2863,
    1342, 2409, 1258, 2249, 2862, 920, 1607, 2802, 610, 3129, 1108, 2823, 476, 2641, 2788, 2070,
    1368, 2903, 699, 2844, 942, 2663, 457, 2701, 2540, 2231, 2746, 1738, 2350, 2808, 2025, 2541,
    2156, 126, 2512, 831, 2503, 2039, 2774, 886, 919, 2240, 2636, 963, 1218, 1406, 1420, 526,
    2639, 975, 1921, 2305, 1193, 2517, 2809, 1647, 314, 2560, 545, 1345, 775, 603, 1163, 1641,
    1678, 2450, 2915, 42, 2242, 2741, 1143, 862, 1654, 1826, 1689, 3124, 2710, 152, 549, 360,
    1982, 1478, 2203, 2612, 2956, 2681, 437, 2171, 1933, 3110, 1824, 2803, 234, 764, 177, 817,
    3145, 1262, 864, 2359, 2992, 1725, 2667, 2484, 1133, 1667, 2847, 932, 1392, 2573, 2140, 1046,
    264, 2927, 2752, 679, 2493, 1658, 2466, 1057, 2444, 2093, 2248, 2432, 726, 816, 1171, 2766,
    2900, 2313, 488, 2265, 2043, 332, 1771, 2320, 2646, 1089, 2826, 3148,
)  # fmt: skip
"""Object ids of the 847 classes of full ADE20K, in the order of their training ids."""
