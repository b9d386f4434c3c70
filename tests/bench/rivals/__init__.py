"""The feed's rivals, each a small file of two functions, run in a process of its own.

    prepare(films, folder)           write the films' bytes as the system wants them, once
    batches(folder, options) -> ...  batches without end, [16, 16, 112, 112, 3] uint8 or with the
                                     colours before the pictures, as the system gives them

`films` are paths of MP4 files. Nothing here knows of the table that comes of it.
"""
