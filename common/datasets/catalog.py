"""All datasets: what is known of each without reading a file. A new dataset is an entry in `SPECS`, and a reader."""

from common.datasets import caltech101, cub200, digits, image_folder, sun397
from common.datasets import from_torchvision as tv
from common.datasets.download import File
from common.datasets.spec import Counts, Spec

OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
SVHN = "http://ufldl.stanford.edu/housenumbers"

SPECS = {
    "Food101": Spec(
        tv.load_food101,
        Counts(101, 75_750, 25_250),
        source="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        license="pictures belong to Foodspotting; scientific fair use",
        size="5.0 GB",
        paths=("food-101",),
        files=(File("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "md5:85eeb15f3717b99a5da872d97d918f87"),),
    ),
    "CIFAR10": Spec(
        tv.load_cifar10,
        Counts(10, 50_000, 10_000),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated",
        size="170 MB",
        paths=("cifar-10-batches-py",),
        files=(
            File("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "md5:c58f30108f718f92721af3b95e74349a"),
        ),
        resizing="cifar",
        mean=(0.4912, 0.4824, 0.4467),
        std=(0.2471, 0.2435, 0.2616),
        native_size=32,
    ),
    "CIFAR100": Spec(
        tv.load_cifar100,
        Counts(100, 50_000, 10_000),
        source="https://www.cs.toronto.edu/~kriz/cifar.html",
        license="none stated",
        size="169 MB",
        paths=("cifar-100-python",),
        files=(
            File("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "md5:eb9058c3a382ffc7106e4002c42a8d85"),
        ),
        resizing="cifar",
        mean=(0.5071, 0.4867, 0.4408),
        std=(0.2675, 0.2565, 0.2761),
        native_size=32,
    ),
    "CUB200": Spec(
        cub200.load,
        Counts(200, 5_994, 5_794),
        source="https://www.vision.caltech.edu/datasets/cub_200_2011/",
        license="pictures belong to their authors; non-commercial research and education",
        size="1.2 GB",
        paths=("CUB_200_2011",),
        files=(
            File(
                "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                "md5:97eceeb196236b17998738112f37df78",
            ),
        ),
    ),
    "Aircraft": Spec(
        tv.load_aircraft,
        Counts(100, 6_667, 3_333),
        source=f"{OXFORD}/fgvc-aircraft/",
        license="non-commercial research",
        size="2.8 GB",
        paths=("fgvc-aircraft-2013b",),
        files=(
            # The one published checksum is of the tar within: its publisher's client had unzipped it on the way.
            File(
                f"{OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
                "gunzip+sha256:d5f68b1b81d6d7831eb9d5c5517074176b5dfbce6bcb43dc14ed1c66a87b8d75",
            ),
        ),
    ),
    "StanfordCars": Spec(
        tv.load_stanford_cars,
        Counts(196, 8_144, 8_041),
        source="https://github.com/pytorch/vision/issues/7545",
        license="none stated; non-commercial research is customary",
        size="2.0 GB",
        paths=(
            "stanford_cars/devkit/cars_meta.mat",
            "stanford_cars/devkit/cars_train_annos.mat",
            "stanford_cars/cars_test_annos_withlabels.mat",
            "stanford_cars/cars_train",
            "stanford_cars/cars_test",
        ),
        by_hand="its host is gone: unpack car_devkit.tgz (md5 c3b158d763b6e2245038c8ad08e45376), cars_train.tgz "
        "(065e5b463ae28d29e77c1b4b166cfe61) and cars_test.tgz (4ce7ebf6a94d07f1952d94dd34c4d501) in "
        "'{root}/stanford_cars', so that it holds devkit/, cars_train/ and cars_test/, and put "
        "cars_test_annos_withlabels.mat (b0a2b23655a3edd16d84508592a98d10) next to them; where people get them: "
        "https://github.com/pytorch/vision/issues/7545",
    ),
    "SUN397": Spec(
        sun397.load,
        Counts(397, 19_850, 19_850),
        source="https://vision.princeton.edu/projects/2010/SUN/",
        license="pictures belong to their authors; research",
        size="39 GB",
        paths=("SUN397/ClassName.txt",),
        by_hand="its host is gone: unpack SUN397.tar.gz (md5 8ca2778205c41d23104230ba66911c7a) in '{root}', and "
        "Partitions.zip (sha256 e3311ea5f812d4cc6faef194688343d1111f6cd6f70f2c62f393c2b8d6ba1ec9) in "
        "'{root}/SUN397/Partitions'; where people get them: https://github.com/pytorch/vision/issues/9348",
        read_generated=sun397.load_generated,
    ),
    "DTD": Spec(
        tv.load_dtd,
        Counts(47, 1_880, 1_880),
        source=f"{OXFORD}/dtd/",
        license="pictures belong to their authors; research",
        size="625 MB",
        paths=("dtd/dtd",),
        files=(File(f"{OXFORD}/dtd/download/dtd-r1.0.1.tar.gz", "md5:fff73e5086ae6bdbea199a49dfb8a4c1", folder="dtd"),),
    ),
    "OxfordIIITPets": Spec(
        tv.load_pets,
        Counts(37, 3_680, 3_669),
        source=f"{OXFORD}/pets/",
        license="CC BY-SA 4.0",
        size="811 MB",
        paths=("oxford-iiit-pet/images", "oxford-iiit-pet/annotations"),
        files=(
            File(f"{OXFORD}/pets/data/images.tar.gz", "md5:5c4f3ee8e5d25df40f4fd59a7f44e54c", folder="oxford-iiit-pet"),
            File(
                f"{OXFORD}/pets/data/annotations.tar.gz",
                "md5:95a8c909bbe2e81eed6a22bccdf3f68f",
                folder="oxford-iiit-pet",
            ),
        ),
    ),
    "OxfordFlowers102": Spec(
        tv.load_flowers,
        Counts(102, 1_020, 6_149, extra=1_020),
        source=f"{OXFORD}/flowers/102/",
        license="none stated; pictures belong to their authors",
        size="345 MB",
        paths=("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
        files=(
            File(f"{OXFORD}/flowers/102/102flowers.tgz", "md5:52808999861908f626f3c1f4e79d11fa", folder="flowers-102"),
            File(f"{OXFORD}/flowers/102/imagelabels.mat", "md5:e0620be6f572b9609742df49c70aed4d", folder="flowers-102"),
            File(f"{OXFORD}/flowers/102/setid.mat", "md5:a5357ecc9cb78c4bef273ce3793fc85c", folder="flowers-102"),
        ),
    ),
    "Caltech101": Spec(
        caltech101.load,
        Counts(102, 3_060, 6_084),
        source="https://data.caltech.edu/records/mzrjq-6wc02",
        license="CC BY 4.0",
        size="137 MB",
        paths=("caltech101/101_ObjectCategories",),
        files=(
            File(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "md5:3138e1922a9193bfa496528edbbc45d0",
                folder="caltech101",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
    ),
    "FashionMNIST": Spec(
        tv.load_fashion_mnist,
        Counts(10, 60_000, 10_000),
        source="https://github.com/zalandoresearch/fashion-mnist",
        license="MIT",
        size="31 MB",
        paths=("FashionMNIST/raw",),
        files=tuple(
            File(f"{FASHION}/{name}-ubyte.gz", f"md5:{md5}", folder="FashionMNIST/raw")
            for name, md5 in (
                ("train-images-idx3", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1", "25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3", "bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1", "bb300cfdad3c16e7a12a480ee83cd310"),
            )
        ),
        resizing="cifar",
        mean=(0.2860,) * 3,
        std=(0.3530,) * 3,
        native_size=28,
    ),
    "SVHN": Spec(
        tv.load_svhn,
        Counts(10, 73_257, 26_032),
        source="http://ufldl.stanford.edu/housenumbers/",
        license="non-commercial use",
        size="246 MB",
        paths=("train_32x32.mat", "test_32x32.mat"),
        files=(
            File(f"{SVHN}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
            File(f"{SVHN}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
        ),
        resizing="cifar",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        native_size=32,
        flip=False,
    ),
    "SVHNExtra": Spec(
        tv.load_svhn_extra,
        Counts(10, 604_388, 26_032),
        source="http://ufldl.stanford.edu/housenumbers/",
        license="non-commercial use",
        size="1.6 GB",
        paths=("train_32x32.mat", "test_32x32.mat", "extra_32x32.mat"),
        files=(
            File(f"{SVHN}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
            File(f"{SVHN}/extra_32x32.mat", "md5:a93ce644f1a588dc4d68dda5feec44a7"),
            File(f"{SVHN}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
        ),
        resizing="cifar",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        native_size=32,
        flip=False,
    ),
    "STL10": Spec(
        tv.load_stl10,
        Counts(10, 5_000, 8_000, extra=100_000),
        source="https://cs.stanford.edu/~acoates/stl10/",
        license="none stated; pictures from ImageNet",
        size="2.6 GB",
        paths=("stl10_binary",),
        files=(
            File("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "md5:91f7769df0f17e558f3565bffb0c7dfb"),
        ),
        resizing="cifar",
        mean=(0.4467, 0.4398, 0.4066),
        std=(0.2603, 0.2566, 0.2713),
        native_size=96,
    ),
    "Digits": Spec(
        digits.load,
        Counts(10, 1_198, 599),
        source="https://archive.ics.uci.edu/dataset/80",
        license="CC BY 4.0",
        size="within scikit-learn",
        resizing="cifar",
        mean=(0.3092,) * 3,
        std=(0.3490,) * 3,
        native_size=digits.SIZE,
        flip=False,
    ),
    "ImageFolder": Spec(image_folder.load, read_listed=image_folder.load_listed),
}
