"""Data sets and what is measured of them, as data: layouts, licences, papers, protocols.

Nothing heavy is imported to list them. The code that reads a data set is at its target, "package.module".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Files of a data set: their path below its root, with <placeholders> and a * glob, and what they are."""

    path: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolEntry:
    """What is measured, and how, so that numbers can be compared: computed by `uadctl.metrics.official`.

    metrics:    those that its authors report, in their order.
    fpr_limits: the false-positive rates up to which AU-PRO is integrated, unless the spec names others.
    own:        metrics that are computed for protocols that name them only.
    of_pixels:  those of `own` that need masks and maps.
    sorts:      the sorts of defect that are measured apart, by the beginning of the names of their kinds, each with all
                good images; the figure of the category is the mean of theirs. None: all defects together.
    """

    name: str
    summary: str
    metrics: tuple[str, ...]
    fpr_limits: tuple[float, ...]
    own: tuple[str, ...] = ()
    of_pixels: tuple[str, ...] = ()
    sorts: tuple[str, ...] = ()
    paper: str | None = None

    @property
    def spro(self) -> tuple[str, ...]:
        """Those of `own` that are sPRO, for which each defect is looked at by itself; empty where none is."""
        return tuple(name for name in self.own if name.startswith("spro_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetEntry:
    """One kind of data set.

    target:     the module with `list_categories(root, ...)` and `load(root, category, ...)`.
    needs_root: it lies in a folder that the user names; False where uadctl makes it itself.
    layout:     the folders it expects, in one line.
    places:     the same in full, a place for each role, in the order in which a person would look.
    licence:    under which terms its images may be used.
    protocol:   what its authors measure and how it is averaged; or that nobody laid that down.
    measured_by: the name in `PROTOCOLS` of what a bench computes, unless the spec names another.
    official:   that protocol is its authors' own.
    homepage, doi: where it is described and had from, and the DOI of its paper; None where there is none.
    splits:     the values `[dataset] split` may have; the first is the default.
    splits_are_disjoint: no image is in two of them, so that all can be looked at in one go; its module lists those that
                are on disk.
    layouts:    the values `[dataset] layout` may have; empty where there is but one layout.
    names_objects: its categories are words for what is on the images, which models that read words take for it.
    takes_files: `[dataset.files]` may say which files are which.
    built_on:   the data set whose layout it has, with a sign of its own; None where there is none.
    extra:      the extra of uadctl that installs what reading it needs, or None.
    """

    name: str
    target: str
    summary: str
    layout: str
    licence: str
    protocol: str
    places: tuple[Place, ...]
    measured_by: str = "mvtec_ad"
    official: bool = True
    paper: str | None = None
    homepage: str | None = None
    doi: str | None = None
    aliases: tuple[str, ...] = ()
    needs_root: bool = True
    splits: tuple[str, ...] = ("test",)
    splits_are_disjoint: bool = False
    layouts: tuple[str, ...] = ()
    names_objects: bool = False
    takes_files: bool = False
    built_on: str | None = None
    extra: str | None = None

    @property
    def protocol_metrics(self) -> tuple[str, ...]:
        """The metrics of uadctl that the authors' protocol asks for; empty where they laid down none."""
        return PROTOCOLS[self.measured_by].metrics if self.official else ()


_LOCO_PAPER = (
    'Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and '
    'Localization", IJCV 130, 2022'
)
_AD2_PAPER = (
    'Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly Detection", 2025'
)

_KSDD_PAPER = (
    'Tabernik et al., "Segmentation-Based Deep-Learning Approach for Surface-Defect Detection", '
    "Journal of Intelligent Manufacturing 31, 2020"
)
_KSDD2_PAPER = (
    'Božič et al., "Mixed Supervision for Surface-Defect Detection: From Weakly to Fully Supervised Learning", '
    "Computers in Industry 129, 2021"
)
_MPDD_PAPER = (
    'Jezek et al., "Deep Learning-Based Defect Detection of Metal Parts: Evaluating Current Methods in Complex '
    'Conditions", ICUMT 2021'
)
_REAL_IAD_PAPER = (
    'Wang et al., "Real-IAD: A Real-World Multi-View Dataset for Benchmarking Versatile Industrial Anomaly Detection", '
    "CVPR 2024"
)
_AUTOVI_PAPER = (
    'Carvalho et al., "Detecting Visual Anomalies in an Industrial Environment: Unsupervised Methods Put to the Test '
    'on the AutoVI Dataset", Computers in Industry 163, 2024'
)
_BMAD_PAPER = 'Bao et al., "BMAD: Benchmarks for Medical Anomaly Detection", CVPR Workshops 2024'
_VAD_PAPER = 'Baitieva et al., "Supervised Anomaly Detection for Complex Industrial Images", CVPR 2024'

PROTOCOLS: dict[str, ProtocolEntry] = {
    entry.name: entry
    for entry in (
        ProtocolEntry(
            name="mvtec_ad",
            summary="image AUROC, and AU-PRO up to a false-positive rate of 0.3",
            metrics=("image_auroc", "aupro_30"),
            fpr_limits=(0.3,),
            paper="Bergmann et al., The MVTec Anomaly Detection Dataset, IJCV 129, 2021",
        ),
        ProtocolEntry(
            name="mvtec_loco",
            summary="image AUROC and sPRO up to a false-positive rate of 0.05, for logical and for structural defects "
            "each with all good images; the figure for both is the mean of the two",
            metrics=(
                "image_auroc",
                "image_auroc_logical",
                "image_auroc_structural",
                "spro_05",
                "spro_05_logical",
                "spro_05_structural",
            ),
            fpr_limits=(0.3,),
            own=(
                "image_auroc_logical",
                "image_auroc_structural",
                "image_auroc_pooled",
                "spro_05",
                "spro_05_logical",
                "spro_05_structural",
            ),
            of_pixels=("spro_05", "spro_05_logical", "spro_05_structural"),
            sorts=("logical", "structural"),
            paper=_LOCO_PAPER,
        ),
        ProtocolEntry(
            name="mvtec_ad2",
            summary="AU-PRO up to a false-positive rate of 0.05, and at one threshold of the maps the F1 of all pixels "
            "(SegF1) and of the images (ClassF1)",
            metrics=("aupro_05", "segf1", "classf1"),
            fpr_limits=(0.05,),
            own=("segf1", "classf1"),
            of_pixels=("segf1", "classf1"),
            paper=_AD2_PAPER,
        ),
        ProtocolEntry(
            name="real_iad",
            summary="AUROC of the images and of the samples (the highest score of a part's views), and AU-PRO up to a "
            "false-positive rate of 0.3",
            metrics=("image_auroc", "group_auroc", "aupro_30"),
            fpr_limits=(0.3,),
            paper=_REAL_IAD_PAPER,
        ),
        ProtocolEntry(
            name="autovi",
            summary="image AUROC, and sPRO up to a false-positive rate of 0.05 over all kinds of defect together",
            metrics=("image_auroc", "spro_05"),
            fpr_limits=(0.3,),
            own=("spro_05",),
            of_pixels=("spro_05",),
            paper=_AUTOVI_PAPER,
        ),
        ProtocolEntry(
            name="kolektor",
            summary="average precision of the images",
            metrics=("image_ap",),
            fpr_limits=(0.3,),
            paper=_KSDD_PAPER,
        ),
        ProtocolEntry(
            name="mpdd",
            summary="AUROC of the images and of the pixels",
            metrics=("image_auroc", "pixel_auroc"),
            fpr_limits=(0.3,),
            paper=_MPDD_PAPER,
        ),
        ProtocolEntry(
            name="bmad",
            summary="AUROC of the images, and where there are masks of the pixels, with AU-PRO up to a false-positive "
            "rate of 0.3",
            metrics=("image_auroc", "pixel_auroc", "aupro_30"),
            fpr_limits=(0.3,),
            paper=_BMAD_PAPER,
        ),
        ProtocolEntry(
            name="vad",
            summary="AUROC of the images",
            metrics=("image_auroc",),
            fpr_limits=(0.3,),
            paper=_VAD_PAPER,
        ),
    )
}

_MVTEC_PLACES = (
    Place("<category>/train/good/*.png", "good images to learn from"),
    Place("<category>/validation/good/*.png", "good images that set the threshold (optional)"),
    Place("<category>/test/good/*.png", "good images to test on"),
    Place("<category>/test/<defect>/*.png", "bad images; a folder for each kind of defect"),
    Place("<category>/ground_truth/<defect>/<stem>_mask.png", "their masks: a pixel above 0 is a defect"),
)

_ENTRIES = (
    DatasetEntry(
        name="demo",
        target="uadctl.datasets.demo",
        built_on="mvtec",
        summary="Parts drawn by uadctl itself, with defects: needs no download.",
        layout="made in the cache folder on first use; or at root, a copy from: uadctl datasets demo --out DIR",
        licence="Apache-2.0",
        official=False,
        protocol="none: its numbers say that an installation works, not how well a model does on real parts",
        places=_MVTEC_PLACES,
        needs_root=False,
    ),
    DatasetEntry(
        name="folder",
        aliases=("custom",),
        target="uadctl.datasets.folder",
        summary="Your own images: folders of good and bad parts, or globs.",
        layout="ROOT/train/normal, ROOT/test/{normal,anomaly}, ROOT/ground_truth/anomaly/<stem>_mask.png",
        licence="your own",
        official=False,
        protocol="none laid down: missed defects and false alarms at the threshold are what a line feels",
        places=(
            Place("train/normal/*.png", "good images to learn from"),
            Place("validation/normal/*.png", "good images that set the threshold (optional)"),
            Place("test/normal/*.png", "good images to test on"),
            Place("test/anomaly/*.png", "bad images; sub-folders are kinds of defect"),
            Place("ground_truth/anomaly/<stem>_mask.png", "their masks (optional): above 0 is a defect"),
        ),
        takes_files=True,
    ),
    DatasetEntry(
        name="mvtec",
        target="uadctl.datasets.mvtec",
        summary="MVTec AD, and every data set in its layout.",
        layout="ROOT/<category>/train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png",
        licence="CC BY-NC-SA 4.0",
        protocol="image AUROC, and AU-PRO up to a false-positive rate of 0.3, of each category; "
        "then the mean over the categories",
        places=_MVTEC_PLACES,
        names_objects=True,
        paper='Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection", '
        "CVPR 2019",
        homepage="https://www.mvtec.com/company/research/datasets/mvtec-ad",
        doi="10.1109/CVPR.2019.00982",
    ),
    DatasetEntry(
        name="mvtec_loco",
        aliases=("loco",),
        target="uadctl.datasets.mvtec_loco",
        built_on="mvtec",
        summary="MVTec LOCO AD: logical and structural defects, several masks an image.",
        layout="ROOT/<category>/train/good, validation/good, test/{good,logical_anomalies,structural_anomalies}, "
        "ground_truth/<kind>/<stem>/*.png, defects_config.json",
        licence="CC BY-NC-SA 4.0",
        protocol="image AUROC and AU-sPRO up to a false-positive rate of 0.05, for logical and structural defects "
        "apart, each with all good images; their mean; then the mean over the categories",
        measured_by="mvtec_loco",
        names_objects=True,
        places=(
            Place("<category>/train/good/*.png", "good images to learn from"),
            Place("<category>/validation/good/*.png", "good images that set the threshold"),
            Place("<category>/test/good/*.png", "good images to test on"),
            Place("<category>/test/logical_anomalies/*.png", "bad: something is missing or misplaced"),
            Place("<category>/test/structural_anomalies/*.png", "bad images: damage"),
            Place("<category>/ground_truth/<kind>/<stem>/*.png", "their masks, one a defect; the value names it"),
            Place("<category>/defects_config.json", "how much of a defect is enough"),
        ),
        paper=_LOCO_PAPER,
        homepage="https://www.mvtec.com/company/research/datasets/mvtec-loco",
        doi="10.1007/s11263-022-01578-9",
    ),
    DatasetEntry(
        name="mvtec_ad2",
        aliases=("ad2",),
        target="uadctl.datasets.mvtec_ad2",
        built_on="mvtec",
        summary="MVTec AD 2: a public test set, and two without ground truth for its evaluation server.",
        layout="ROOT/<category>/train/good, validation/good, test_public/{good,bad,ground_truth/bad}, test_private, "
        "test_private_mixed",
        licence="CC BY-NC-SA 4.0",
        protocol="AU-PRO up to a false-positive rate of 0.05; at a threshold that the participant chooses SegF1, the "
        "F1 of all pixels of a category, and ClassF1, the F1 of its images; then the mean over the categories",
        measured_by="mvtec_ad2",
        names_objects=True,
        places=(
            Place("<category>/train/good/*.png", "good images to learn from"),
            Place("<category>/validation/good/*.png", "good images that set the thresholds"),
            Place("<category>/test_public/good/*.png", "good images to test on"),
            Place("<category>/test_public/bad/*.png", "bad images"),
            Place("<category>/test_public/ground_truth/bad/<stem>_mask.png", "their masks"),
            Place("<category>/test_private/*.png", "no ground truth, light as in training"),
            Place("<category>/test_private_mixed/*.png", "no ground truth, other light as well"),
        ),
        splits=("test_public", "test_private", "test_private_mixed"),
        splits_are_disjoint=True,
        paper=_AD2_PAPER,
        homepage="https://www.mvtec.com/company/research/datasets/mvtec-ad-2",
        doi="10.48550/arXiv.2503.21622",
    ),
    DatasetEntry(
        name="visa",
        target="uadctl.datasets.visa",
        built_on="mvtec",
        summary="VisA, as downloaded (split_csv) or rearranged (visa_pytorch).",
        layout="ROOT/split_csv/1cls.csv, ROOT/<category>/Data/Images/{Normal,Anomaly}, Data/Masks/Anomaly",
        licence="CC BY 4.0",
        protocol="image AUROC, and AU-PRO up to a false-positive rate of 0.3, of each category; "
        "then the mean over the categories",
        names_objects=True,
        places=(
            Place("split_csv/1cls.csv", "the split; also 2cls_fewshot, 2cls_highshot"),
            Place("<category>/image_anno.csv", "the kinds of defect of each image"),
            Place("<category>/Data/Images/Normal/*.JPG", "good images"),
            Place("<category>/Data/Images/Anomaly/*.JPG", "bad images"),
            Place("<category>/Data/Masks/Anomaly/*.png", "their masks: a pixel above 0 is a defect"),
        ),
        splits=("1cls", "2cls_fewshot", "2cls_highshot"),
        layouts=("original", "visa_pytorch"),
        paper='Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", '
        "ECCV 2022",
        homepage="https://registry.opendata.aws/visa/",
        doi="10.1007/978-3-031-20056-4_23",
    ),
    DatasetEntry(
        name="btad",
        target="uadctl.datasets.btad",
        summary="BTAD, the BeanTech set of three industrial products.",
        layout="ROOT/<category>/train/ok, test/{ok,ko}, ground_truth/ko/<stem>.png",
        licence="CC BY-NC-SA 4.0",
        protocol="image AUROC, and AU-PRO up to a false-positive rate of 0.3, of each product; "
        "then the mean over the products",
        places=(
            Place("<category>/train/ok/*.png", "good images to learn from"),
            Place("<category>/test/ok/*.png", "good images to test on"),
            Place("<category>/test/ko/*.png", "bad images"),
            Place("<category>/ground_truth/ko/<stem>.png", "their masks, png or bmp: above 0 is a defect"),
        ),
        paper='Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and Localization", '
        "ISIE 2021",
        homepage="https://github.com/pankajmishra000/VT-ADL",
        doi="10.1109/ISIE45552.2021.9576231",
    ),
    DatasetEntry(
        name="mvtec_3d",
        aliases=("mvtec_3d_ad",),
        target="uadctl.datasets.mvtec_3d",
        built_on="mvtec",
        summary="MVTec 3D-AD: its colour images; the 3D scans beside them are not read.",
        layout="ROOT/<category>/{train,validation}/good/rgb, test/<defect>/{rgb,gt}",
        licence="CC BY-NC-SA 4.0",
        protocol="image AUROC, and AU-PRO up to a false-positive rate of 0.3, of each category; "
        "then the mean over the categories",
        names_objects=True,
        places=(
            Place("<category>/train/good/rgb/*.png", "good images to learn from"),
            Place("<category>/validation/good/rgb/*.png", "good images that set the threshold"),
            Place("<category>/test/good/rgb/*.png", "good images to test on"),
            Place("<category>/test/<defect>/rgb/*.png", "bad images; a folder for each kind of defect"),
            Place("<category>/test/<defect>/gt/*.png", "their masks, named alike: above 0 is a defect"),
            Place("<category>/<split>/<kind>/xyz/*.tiff", "3D scans: not read"),
        ),
        paper='Bergmann et al., "The MVTec 3D-AD Dataset for Unsupervised 3D Anomaly Detection and Localization", '
        "VISAPP 2022",
        homepage="https://www.mvtec.com/company/research/datasets/mvtec-3d-ad",
        doi="10.5220/0010865000003124",
    ),
    DatasetEntry(
        name="mpdd",
        target="uadctl.datasets.mpdd",
        built_on="mvtec",
        summary="MPDD: painted metal parts in changing poses, in the layout of MVTec AD.",
        layout="ROOT/<category>/train/good, test/<defect>, ground_truth/<defect>/<stem>_mask.png",
        licence="CC BY-NC-SA 4.0",
        protocol="AUROC of the images and of the pixels of each category; then the mean over the categories",
        measured_by="mpdd",
        names_objects=True,
        places=_MVTEC_PLACES,
        paper=_MPDD_PAPER,
        homepage="https://github.com/stepanje/MPDD",
        doi="10.1109/ICUMT54235.2021.9631567",
    ),
    DatasetEntry(
        name="real_iad",
        aliases=("realiad",),
        target="uadctl.datasets.real_iad",
        summary="Real-IAD: thirty kinds of part, each part seen from five sides.",
        layout="ROOT/realiad_1024/<category>/{OK,NG/<defect>}/S0001/*.jpg, ROOT/realiad_jsons/<category>.json",
        licence="CC BY-NC-SA 4.0",
        protocol="AUROC of the images and of the samples (a sample's score is the highest of its views), and AU-PRO "
        "up to a false-positive rate of 0.3, of each category; then the mean over the categories",
        measured_by="real_iad",
        names_objects=True,
        places=(
            Place("realiad_jsons/<category>.json", "the split of all five views"),
            Place("realiad_jsons_sv/<category>.json", "the split of the view from above alone"),
            Place("realiad_1024/<category>/OK/S0001/*.jpg", "good samples; also realiad_512, _256, _raw"),
            Place("realiad_1024/<category>/NG/<defect>/S0001/*.jpg", "bad samples; a view may show no defect"),
            Place("realiad_1024/<category>/NG/<defect>/S0001/*.png", "the masks of views that show one"),
        ),
        splits=("multi_view", "single_view"),
        layouts=("1024", "512", "256", "raw"),
        paper=_REAL_IAD_PAPER,
        homepage="https://realiad4ad.github.io/Real-IAD/",
        doi="10.48550/arXiv.2403.12580",
    ),
    DatasetEntry(
        name="kolektorsdd",
        aliases=("ksdd",),
        target="uadctl.datasets.kolektorsdd",
        summary="KolektorSDD: surfaces of electrical commutators, in three folds.",
        layout="ROOT/kos01/Part0.jpg, Part0_label.bmp",
        licence="CC BY-NC-SA 4.0",
        protocol="average precision of the images, over three folds; no commutator is in two of them. The authors' "
        "folds are published as a pickle, which is not read: here the i-th commutator is tested in fold i mod 3",
        measured_by="kolektor",
        places=(
            Place("kos01/Part0.jpg", "one surface; eight each, kos01 to kos50"),
            Place("kos01/Part0_label.bmp", "its mask: above 0 is a defect; all black: good"),
        ),
        splits=("fold_0", "fold_1", "fold_2"),
        paper=_KSDD_PAPER,
        homepage="https://www.vicos.si/resources/kolektorsdd/",
        doi="10.1007/s10845-019-01476-x",
    ),
    DatasetEntry(
        name="kolektorsdd2",
        aliases=("ksdd2",),
        target="uadctl.datasets.kolektorsdd2",
        summary="KolektorSDD2: surfaces with defects of many kinds and sizes.",
        layout="ROOT/train/10000.png, 10000_GT.png, ROOT/test/20000.png, 20000_GT.png",
        licence="CC BY-NC-SA 4.0",
        protocol="average precision of the images",
        measured_by="kolektor",
        places=(
            Place("train/10000.png", "images to learn from; those with a defect are left out"),
            Place("train/10000_GT.png", "their masks"),
            Place("test/20000.png", "images to test on"),
            Place("test/20000_GT.png", "its mask: above 0 is a defect; all black: good"),
        ),
        paper=_KSDD2_PAPER,
        homepage="https://www.vicos.si/resources/kolektorsdd2/",
        doi="10.1016/j.compind.2021.103459",
    ),
    DatasetEntry(
        name="magnetic_tile",
        aliases=("mtd",),
        target="uadctl.datasets.magnetic_tile",
        summary="Magnetic tiles with five kinds of defect, in images of many sizes.",
        layout="ROOT/MT_Free/Imgs/*.jpg, ROOT/MT_<defect>/Imgs/*.jpg, *.png",
        licence="none is stated; the authors ask to be cited",
        official=False,
        protocol="none laid down for learning from good images alone; others keep a fifth of these to test on and "
        "report image AUROC (Rudolph et al., WACV 2021; Roth et al., CVPR 2022)",
        places=(
            Place("MT_Free/Imgs/*.jpg", "good images; every fifth number is for testing"),
            Place("MT_<defect>/Imgs/*.jpg", "bad images to test on"),
            Place("MT_<defect>/Imgs/*.png", "their masks, named alike: above 0 is a defect"),
        ),
        paper='Huang et al., "Surface Defect Saliency of Magnetic Tile", The Visual Computer 36, 2020',
        homepage="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        doi="10.1007/s00371-018-1588-5",
    ),
    DatasetEntry(
        name="autovi",
        target="uadctl.datasets.autovi",
        built_on="mvtec",
        summary="AutoVI: six inspections on a car maker's lines, with several masks an image.",
        layout="ROOT/<category>/train/good, test/<defect>, ground_truth/<defect>/<stem>/*.png, defects_config.json",
        licence="CC BY-NC-SA 4.0",
        protocol="sPRO up to a false-positive rate of 0.05, over all kinds of defect together, and image AUROC, of "
        "each category; then the mean over the categories",
        measured_by="autovi",
        names_objects=True,
        places=(
            Place("<category>/train/good/*.png", "good images to learn from"),
            Place("<category>/test/good/*.png", "good images to test on"),
            Place("<category>/test/<defect>/*.png", "bad images; a folder for each kind of defect"),
            Place("<category>/ground_truth/<defect>/<stem>/*.png", "their masks, one a defect; the value names it"),
            Place("<category>/defects_config.json", "how much of a defect is enough"),
        ),
        paper=_AUTOVI_PAPER,
        homepage="https://zenodo.org/records/10459003",
        doi="10.1016/j.compind.2024.104151",
    ),
    DatasetEntry(
        name="bmad",
        target="uadctl.datasets.bmad",
        built_on="mvtec",
        summary="BMAD: six medical sets, three of them with masks.",
        layout="ROOT/<category>/train/good/img, {valid,test}/{good,Ungood}/img, test/Ungood/label",
        licence="CC BY-NC-SA 4.0; the six sets that it is made of have terms of their own",
        protocol="image AUROC of each category, and where there are masks pixel AUROC and AU-PRO up to a "
        "false-positive rate of 0.3",
        measured_by="bmad",
        places=(
            Place("<category>/train/good/img/*.png", "good images to learn from; img/ may lack"),
            Place("<category>/valid/good/img/*.png", "good images that set the threshold"),
            Place("<category>/valid/Ungood/img/*.png", "bad images, left out"),
            Place("<category>/test/good/img/*.png", "good images to test on"),
            Place("<category>/test/Ungood/img/*.png", "bad images"),
            Place("<category>/test/Ungood/label/*.png", "their masks, named alike: above 0 is a defect"),
        ),
        paper=_BMAD_PAPER,
        homepage="https://github.com/DorisBao/BMAD",
        doi="10.48550/arXiv.2306.11876",
    ),
    DatasetEntry(
        name="vad",
        target="uadctl.datasets.vad",
        built_on="mvtec",
        summary="VAD: one part from a production line, made for supervised detection; no masks.",
        layout="ROOT/vad/train/{good,bad}, test/{good,bad,bad_unseen_defects}",
        licence="CC BY-NC-SA 4.0",
        protocol="image AUROC, with defects among the training images or, as here, without",
        measured_by="vad",
        places=(
            Place("vad/train/good/*.png", "good images to learn from"),
            Place("vad/train/bad/*.png", "bad images, left out: for supervised detection"),
            Place("vad/test/good/*.png", "good images to test on"),
            Place("vad/test/bad/*.png", "bad images"),
            Place("vad/test/bad_unseen_defects/*.png", "bad images, of kinds that train/bad has not"),
        ),
        paper=_VAD_PAPER,
        homepage="https://github.com/abc-125/vad",
        doi="10.1109/CVPR52733.2024.01681",
    ),
    DatasetEntry(
        name="kaputt",
        target="uadctl.datasets.kaputt",
        extra="kaputt",
        summary="Kaputt: parcels' contents in trays, by the material of the item; no masks of defects.",
        layout="ROOT/datasets/query-<split>.parquet, ROOT/query-crop, ROOT/query-image",
        licence="CC BY-NC-ND 4.0, with terms of its own that take precedence",
        official=False,
        protocol="none for each material, which is a category here: its authors report image AUROC and AP over all "
        "materials together",
        places=(
            Place("datasets/query-<split>.parquet", "a row an image: path, defects, material"),
            Place("query-crop/data/<split>/query-data/crop/*.jpg", "images cut to the item"),
            Place("query-image/data/<split>/query-data/image/*.jpg", "images of the whole tray"),
            Place("query-mask/…", "where the item is, not the defect: not read"),
            Place("reference-*/…", "other captures: not surely good, not read"),
        ),
        layouts=("crop", "image"),
        paper='Höfer et al., "Kaputt: A Large-Scale Dataset for Visual Defect Detection", ICCV 2025',
        homepage="https://www.kaputt-dataset.com",
        doi="10.48550/arXiv.2510.05903",
    ),
    DatasetEntry(
        name="datumaro",
        target="uadctl.datasets.datumaro",
        summary="Exports in Datumaro's format, of CVAT, Geti and others: labels of whole images.",
        layout="ROOT/annotations/<subset>.json, ROOT/images/<subset>/…",
        licence="your own",
        official=False,
        protocol="none laid down: missed defects and false alarms at the threshold are what a line feels",
        places=(
            Place("annotations/<subset>.json", "labels; subsets train, validation, test, or another"),
            Place("images/<subset>/*", "the images"),
        ),
        homepage="https://docs.cvat.ai/docs/dataset_management/formats/format-datumaro",
    ),
    DatasetEntry(
        name="manifest",
        target="uadctl.datasets.manifest",
        summary="A list of images in a CSV or JSON-lines file: the way to bring anything else.",
        layout="ROOT/manifest.csv",
        licence="your own",
        official=False,
        protocol="none laid down: missed defects and false alarms at the threshold are what a line feels",
        places=(Place("manifest.csv", "path, split, label, defect, mask, category, group; or .jsonl"),),
    ),
)

DATASETS: dict[str, DatasetEntry] = {entry.name: entry for entry in _ENTRIES}
