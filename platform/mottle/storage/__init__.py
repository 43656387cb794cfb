"""Folders on any storage that pyarrow speaks: local disks, object stores."""

from mottle.storage.folder import Folder as Folder
